//! What the SSH library says nowhere but in its log: the number of each message, and why it refused a request that no
//! callback was asked about ([ADR 0012](../../../docs/adr/0012-the-librarys-log-is-listened-to.md)).
//!
//! Under keys the library drops messages that its state does not know, and refuses certificates out of their dates and wrong
//! signatures, without telling its user. It logs both. A connection's task is the one that is polled while its lines are
//! written, so that each line finds its connection.
//!
//! What is overheard ends connections and makes records; it lets nobody in. Were a line worded otherwise, its message would
//! be dropped as the library has it, and the connection end at the login grace.

mod line;
mod order;

use std::{
    cell::RefCell,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use log::{LevelFilter, Log, Metadata, Record};
use tokio::task;
use tokio_util::sync::CancellationToken;
use tracing_log::{AsLog as _, LogTracer};

use self::{
    line::{Line, Said},
    order::Order,
};
use super::record::Recorder;

/// The library's own modules; their lines are at `Debug` and above.
const LIBRARY: &str = "russh::server";

thread_local! {
    /// The task that was last seen at work for a connection on this thread.
    static AT_WORK: RefCell<Option<(task::Id, Arc<Overheard>)>> = const { RefCell::new(None) };
}

/// Listens to the library's log from here on, and hands on what is logged to `tracing`, as far as that wants it. Once in a
/// process; connections that there are already are listened to as well.
///
/// # Errors
/// If the process has another logger.
pub fn listen() -> Result<(), log::SetLoggerError> {
    let wanted = tracing::level_filters::LevelFilter::current().as_log();
    log::set_boxed_logger(Box::new(Listener {
        wanted,
        tracer: LogTracer::new(),
    }))?;
    log::set_max_level(wanted.max(LevelFilter::Debug));
    Ok(())
}

struct Listener {
    /// What `tracing` may show.
    wanted: LevelFilter,
    tracer: LogTracer,
}

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(LIBRARY) || metadata.level() <= self.wanted
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with(LIBRARY)
            && let Some(overheard) = at_work()
        {
            overheard.hear(record);
        }
        if record.level() <= self.wanted {
            self.tracer.log(record);
        }
    }

    fn flush(&self) {}
}

/// The connection whose task is being polled.
fn at_work() -> Option<Arc<Overheard>> {
    let task = task::try_id()?;
    let seen = |at_work: &RefCell<Option<(task::Id, Arc<Overheard>)>>| {
        let at_work = at_work.try_borrow().ok()?;
        let (seen, overheard) = at_work.as_ref()?;
        (*seen == task).then(|| Arc::clone(overheard))
    };
    AT_WORK.try_with(seen).ok().flatten()
}

/// What is overheard of one connection.
#[derive(Debug)]
pub(super) struct Overheard {
    recorder: Arc<Recorder>,
    state: Mutex<State>,
    /// Cancelled at the first message that has no place where it came.
    unexpected: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    order: Order,
    /// The request that is being served.
    request: Option<Request>,
    /// Refused without a callback, and not yet counted.
    refused: Option<Refused>,
    unexpected: Option<u8>,
}

/// Requests that the library refused by itself.
#[derive(Debug)]
pub(super) struct Refused {
    /// Of the last one, as the client has the name.
    pub(super) user: String,
    pub(super) requests: u32,
    /// Those that showed a key or certificate.
    pub(super) keys: u32,
}

#[derive(Debug)]
struct Request {
    user: String,
    method: String,
    /// Why it does not count, where the library says so.
    reason: Option<&'static str>,
    /// A callback has decided it.
    is_decided: bool,
}

impl State {
    fn count(&mut self, request: &Request) {
        let refused = self.refused.get_or_insert_with(|| Refused {
            user: String::new(),
            requests: 0,
            keys: 0,
        });
        refused.user.clone_from(&request.user);
        refused.requests += 1;
        refused.keys += u32::from(request.method == "publickey");
    }
}

impl Request {
    fn reason(&self) -> &'static str {
        self.reason.unwrap_or(match self.method.as_str() {
            "password" => "password_change",
            "publickey" => "unreadable_key",
            _ => "unknown_method",
        })
    }
}

impl Overheard {
    pub(super) fn new(recorder: Arc<Recorder>) -> Arc<Self> {
        Arc::new(Self {
            recorder,
            state: Mutex::default(),
            unexpected: CancellationToken::new(),
        })
    }

    /// The task that is being polled works for this connection: its lines are about it.
    pub(super) fn attend(self: &Arc<Self>) {
        let Some(task) = task::try_id() else {
            return;
        };
        // Dropped last, when nothing is borrowed: the end of another connection may log.
        let _before = AT_WORK.try_with(|at_work| {
            let mut at_work = at_work.try_borrow_mut().ok()?;
            let is_known = at_work
                .as_ref()
                .is_some_and(|(seen, overheard)| *seen == task && Arc::ptr_eq(overheard, self));
            if is_known {
                None
            } else {
                at_work.replace((task, Arc::clone(self)))
            }
        });
    }

    /// The connection's socket is gone.
    pub(super) fn leave(&self) {
        let _before = AT_WORK.try_with(|at_work| {
            let mut at_work = at_work.try_borrow_mut().ok()?;
            let is_own = at_work
                .as_ref()
                .is_some_and(|(_, overheard)| std::ptr::eq(Arc::as_ptr(overheard), self));
            if is_own { at_work.take() } else { None }
        });
    }

    /// A callback has decided the request that is being served.
    pub(super) fn decided(&self) {
        if let Some(request) = &mut self.state().request {
            request.is_decided = true;
        }
    }

    /// A prompt is open, which one answer may follow.
    pub(super) fn prompted(&self) {
        self.state().order.prompted();
    }

    /// The login is over: channels are served.
    pub(super) fn logged_in(&self) {
        self.state().order.logged_in();
    }

    /// The requests that were refused without a callback since it was last asked.
    pub(super) fn take_refused(&self) -> Option<Refused> {
        self.state().refused.take()
    }

    /// Whether the connection is to end because of a message that has no place where it came.
    pub(super) fn is_over(&self) -> bool {
        self.unexpected.is_cancelled()
    }

    /// Resolves with the number of the first message that has no place where it came.
    pub(super) async fn unexpected(&self) -> u8 {
        self.unexpected.cancelled().await;
        self.state().unexpected.unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, record: &Record<'_>) {
        let only_unknown = self.state().order.is_logged_in();
        let mut line = Line::new(only_unknown);
        // It stops at the first piece that makes the line one of no interest.
        if line.write_fmt(*record.args()).is_ok()
            && let Some(said) = line.said()
        {
            self.take_in(said);
        }
    }

    fn take_in(&self, said: Said) {
        let mut state = self.state();
        match said {
            Said::Message(number) => {
                state.request = None;
                if !state.order.admits(number) {
                    self.end(&mut state, number);
                }
            }
            Said::Service { is_ours: true } => state.order.service_accepted(),
            Said::Service { is_ours: false } => self.end(&mut state, order::SERVICE_REQUEST),
            Said::Unknown(number) => {
                if !order::is_tolerated(number) {
                    self.end(&mut state, number);
                }
            }
            Said::Request { user, method } => {
                state.request = Some(Request {
                    user,
                    method,
                    reason: None,
                    is_decided: false,
                });
            }
            Said::Because(reason) => {
                if let Some(request) = &mut state.request {
                    request.reason = Some(reason);
                }
            }
            Said::Rejecting => {
                let undecided = state.request.take_if(|request| !request.is_decided);
                if let Some(request) = undecided {
                    state.count(&request);
                    let reason = request.reason();
                    drop(state);
                    self.recorder
                        .request_refused(&request.user, &request.method, reason);
                }
            }
        }
    }

    fn end(&self, state: &mut State, number: u8) {
        state.unexpected.get_or_insert(number);
        self.unexpected.cancel();
    }
}
