//! The WRITEs of an upload: how many are unanswered, and whether all succeeded.

use tokio::sync::watch;

use super::{
    fault::{Fault, Loss},
    wire::Reply,
};

/// The WRITEs of an upload that are on their way, and the first that failed.
#[derive(Debug, Default)]
pub(super) struct Writes(watch::Sender<WritesSoFar>);

#[derive(Debug, Default)]
struct WritesSoFar {
    unanswered: usize,
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
enum Failure {
    /// The server said no; what it took before and after is not known to be without a hole.
    Refused(String),
    Lost,
}

impl Writes {
    pub(super) fn begin(&self) {
        self.0.send_modify(|so_far| so_far.unanswered += 1);
    }

    pub(super) fn answered(&self, reply: &Reply) {
        self.end(match reply {
            Reply::Status { code: 0, .. } => None,
            Reply::Status { code, message } => {
                Some(Failure::Refused(format!("{message} (status {code})")))
            }
            Reply::Handle(_)
            | Reply::Data(_)
            | Reply::Names(_)
            | Reply::Attributes(_)
            | Reply::Extended(_) => {
                Some(Failure::Refused("an answer of the wrong kind".to_owned()))
            }
        });
    }

    /// The answer to one of them will not come.
    pub(super) fn lost(&self) {
        self.end(Some(Failure::Lost));
    }

    fn end(&self, failure: Option<Failure>) {
        self.0.send_modify(|so_far| {
            so_far.unanswered = so_far.unanswered.saturating_sub(1);
            if so_far.failure.is_none() {
                so_far.failure = failure;
            }
        });
    }

    /// Waits until every WRITE is answered.
    pub(super) async fn all_succeeded(&self) -> Result<(), Fault> {
        let mut watcher = self.0.subscribe();
        let Ok(so_far) = watcher.wait_for(|so_far| so_far.unanswered == 0).await else {
            return Err(Fault::WrongAnswer);
        };
        match so_far.failure.clone() {
            None => Ok(()),
            Some(Failure::Refused(why)) => Err(Fault::Spoiled(why)),
            Some(Failure::Lost) => {
                Err(Loss::unavailable("the connection was lost during a write").into())
            }
        }
    }

    /// True if the server has said no to one.
    pub(super) fn was_refused(&self) -> bool {
        matches!(self.0.borrow().failure, Some(Failure::Refused(_)))
    }
}
