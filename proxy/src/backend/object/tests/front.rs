//! A front before the object store: it hands requests on, notes them, and fails when a test says so.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Duration, sleep},
};

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    HandOn,
    /// This status, with an error document of this code.
    Refuse(u16, &'static str),
    /// This body, as a success.
    Answer(String),
    /// This head of an answer without a body.
    Head(&'static str),
    /// Nothing of the body is read, nothing is answered.
    Hang,
    /// It is handed on once the test adds a permit.
    Hold(Arc<Semaphore>),
    /// So many milliseconds pass before it is handed on.
    Delay(u64),
    /// The request reaches the server whole; its answer is lost.
    LoseAnswer,
    /// So many bytes of the request's body, then a reset.
    CutBody(usize),
    /// So many bytes of the server's answer, then a reset.
    CutAnswer(usize),
    /// The server's answer, changed: its head line by line, and its body.
    Change(fn(&mut Vec<String>, &mut Vec<u8>)),
}

type Rule = dyn Fn(&Seen) -> Fate + Send + Sync;
/// Makes of a request's head and body the head that the server gets, or else an answer.
pub(super) type Translation = fn(&str, &[u8]) -> Result<String, String>;

/// Where requests go.
#[derive(Clone, Copy)]
struct Upstream {
    server: std::net::SocketAddr,
    translation: Option<Translation>,
}

/// A request as a rule sees it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Method, path and query.
    pub(super) line: String,
}

impl Seen {
    pub(super) fn is(&self, method: &str, part: &str) -> bool {
        self.line.starts_with(method) && self.line.contains(part)
    }
}

/// The first `count` requests of this kind meet `fate`; all others are handed on.
pub(super) fn first(
    count: usize,
    method: &'static str,
    part: &'static str,
    fate: Fate,
) -> impl Fn(&Seen) -> Fate + Send + Sync + 'static {
    let met = AtomicUsize::new(0);
    move |seen| {
        if seen.is(method, part) && met.fetch_add(1, Ordering::Relaxed) < count {
            fate.clone()
        } else {
            Fate::HandOn
        }
    }
}

/// A running front.
pub(super) struct Front {
    pub(super) endpoint: String,
    seen: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Front({})", self.endpoint)
    }
}

impl Front {
    /// A front of the shared server.
    pub(super) async fn start(rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static) -> Self {
        Self::before(super::server().await.address, None, rule).await
    }

    /// A front of another server, or of one that speaks another language.
    pub(super) async fn before(
        server: std::net::SocketAddr,
        translation: Option<Translation>,
        rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let upstream = Upstream {
            server,
            translation,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let (log, rule): (_, Arc<Rule>) = (Arc::clone(&seen), Arc::new(rule));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (log, rule) = (Arc::clone(&log), Arc::clone(&rule));
                connections.spawn(async move {
                    // A client that goes away is part of many tests.
                    let _ = serve(client, upstream, &log, &*rule).await;
                });
            }
        });
        Self {
            endpoint,
            seen,
            _serving: serving,
        }
    }

    /// The lines of the requests with this method, in the order in which they came.
    pub(super) fn lines(&self, method: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let lines = seen.iter().filter(|line| line.starts_with(method));
        lines.cloned().collect()
    }

    /// How many requests of this kind came.
    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with(method) && line.contains(part))
            .count()
    }
}

/// One request, after which the connection is closed.
async fn serve(
    mut client: TcpStream,
    upstream: Upstream,
    log: &Mutex<Vec<String>>,
    rule: &Rule,
) -> std::io::Result<()> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    log.lock().unwrap().push(line.clone());
    let fate = rule(&Seen { line });
    let length: usize = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:").map(str::to_owned))
        .map_or(0, |length| length.trim().parse().unwrap());
    let wanted = match fate {
        Fate::Hang => std::future::pending().await,
        Fate::CutBody(count) => count.min(length),
        Fate::Hold(_)
        | Fate::Delay(_)
        | Fate::HandOn
        | Fate::Refuse(..)
        | Fate::Answer(_)
        | Fate::Head(_)
        | Fate::LoseAnswer
        | Fate::Change(_)
        | Fate::CutAnswer(_) => length,
    };
    while received.len() < end + wanted {
        if client.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
    let answer = match &fate {
        Fate::CutBody(_) => return reset(client),
        Fate::Refuse(status, code) => {
            let body = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
            format!(
                "HTTP/1.1 {status} No\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        }
        Fate::Answer(body) => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
        Fate::Head(head) => format!("{head}\r\nConnection: close\r\n\r\n").into_bytes(),
        Fate::HandOn
        | Fate::LoseAnswer
        | Fate::CutAnswer(_)
        | Fate::Hang
        | Fate::Change(_)
        | Fate::Hold(_)
        | Fate::Delay(_) => {
            if let Fate::Hold(released) = &fate {
                released.acquire().await.unwrap().forget();
            }
            if let Fate::Delay(milliseconds) = &fate {
                sleep(Duration::from_millis(*milliseconds)).await;
            }
            let body = &received[end..];
            let head = match upstream.translation {
                Some(translation) => translation(&head, body),
                None => Ok(head),
            };
            match head {
                Ok(head) => hand_on(upstream.server, &head, body).await?,
                Err(answer) => answer.into_bytes(),
            }
        }
    };
    match fate {
        Fate::Change(change) => {
            client.write_all(&changed(&answer, change)).await?;
            client.shutdown().await
        }
        Fate::LoseAnswer => reset(client),
        Fate::CutAnswer(count) => {
            client.write_all(&answer[..count.min(answer.len())]).await?;
            client.flush().await?;
            reset(client)
        }
        Fate::HandOn
        | Fate::Hold(_)
        | Fate::Delay(_)
        | Fate::Refuse(..)
        | Fate::Answer(_)
        | Fate::Head(_)
        | Fate::Hang
        | Fate::CutBody(_) => {
            client.write_all(&answer).await?;
            client.shutdown().await
        }
    }
}

fn changed(answer: &[u8], change: fn(&mut Vec<String>, &mut Vec<u8>)) -> Vec<u8> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.unwrap() + 4);
    let head = String::from_utf8_lossy(head);
    let mut head: Vec<_> = head.trim_end().lines().map(str::to_owned).collect();
    let mut body = body.to_vec();
    change(&mut head, &mut body);
    [format!("{}\r\n\r\n", head.join("\r\n")).into_bytes(), body].concat()
}

async fn hand_on(
    server: std::net::SocketAddr,
    head: &str,
    body: &[u8],
) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(server).await?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    upstream.write_all(head.as_bytes()).await?;
    upstream.write_all(body).await?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Closes with a reset instead of an orderly end.
fn reset(client: TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()?;
    drop(client);
    Ok(())
}
