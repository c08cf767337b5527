//! A scripted OpenAI-compatible provider on a real port, which records what it is asked and who leaves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::PATIENCE;
use crate::connection::Connection;
use crate::script::{Fault, Script};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// The upstream; it ends with the test.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// A request as it reached the upstream.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The method and the path.
    pub line: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub raw: String,
    /// The body as JSON.
    pub body: Value,
}

impl Recorded {
    /// The messages without the system messages that come first.
    pub fn conversation(&self) -> Vec<Value> {
        let messages = self.body["messages"].as_array().cloned().unwrap_or_default();
        messages.into_iter().filter(|message| message["role"] != "system").collect()
    }

    /// Role and text of each message of the conversation, for short assertions.
    pub fn said(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
        let messages = self.conversation();
        messages.iter().map(|message| (text(&message["role"]), text(&message["content"]))).collect()
    }

    /// The text of the last message.
    pub fn last_text(&self) -> String {
        self.said().pop().map(|(_, text)| text).unwrap_or_default()
    }

    /// The bound on the output that the request carries, under either name.
    pub fn max_output(&self) -> u64 {
        let old = self.body["max_tokens"].as_u64();
        let new = self.body["max_completion_tokens"].as_u64();
        assert!(old.is_none() || new.is_none(), "both names of the bound are sent");
        old.or(new).expect("a bound on the output is always sent")
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Holds a reply back until the test opens it.
#[derive(Clone)]
pub struct Gate {
    /// Its number.
    pub id: usize,
    shared: Arc<Shared>,
}

impl Gate {
    /// Lets every reply that waits here go on, now and later.
    pub fn open(&self) {
        self.shared.lock().open.insert(self.id);
        self.shared.changed.notify_all();
    }
}

/// How a reply ends that goes as far as the test lets it.
#[derive(Clone)]
pub enum End {
    /// Whole.
    Whole,
    /// It goes wrong.
    Fault(Fault),
}

/// How far a reply may go.
#[derive(Clone, Default)]
pub struct Slack {
    /// So many steps: the role is the first one, each piece another.
    pub steps: usize,
    /// Then it ends like this; until then it waits.
    pub end: Option<End>,
}

/// Leads a reply step by step.
#[derive(Clone)]
pub struct Leash {
    /// Its number.
    pub id: usize,
    shared: Arc<Shared>,
}

impl Leash {
    /// Lets the reply go on to this step.
    pub fn let_out(&self, steps: usize) {
        self.change(|slack| slack.steps = slack.steps.max(steps));
    }

    /// Lets the reply end, once it has come as far as it may.
    pub fn end(&self, end: End) {
        self.change(|slack| slack.end = Some(end));
    }

    fn change(&self, change: impl FnOnce(&mut Slack)) {
        change(self.shared.lock().slack.entry(self.id).or_default());
        self.shared.changed.notify_all();
    }
}

type Chooser = Arc<dyn Fn(&Recorded) -> Script + Send + Sync>;

/// What the threads of the upstream share.
pub struct Shared {
    state: Mutex<State>,
    /// Told whenever the state has changed.
    pub changed: Condvar,
}

/// What the upstream knows.
pub struct State {
    /// All requests so far.
    pub requests: Vec<Recorded>,
    /// When clients have left in the middle of an answer.
    pub aborts: Vec<Instant>,
    /// What the next requests get.
    pub queue: VecDeque<Script>,
    /// What all others get.
    pub choose: Chooser,
    /// How many gates there are.
    pub gates: usize,
    /// The gates that are open.
    pub open: HashSet<usize>,
    /// How far the replies may go that are led.
    pub slack: HashMap<usize, Slack>,
    /// The connections.
    pub live: HashMap<usize, TcpStream>,
    /// The connections that the client has closed.
    pub gone: HashSet<usize>,
    /// The request that is being answered, by connection.
    pub running: HashMap<usize, usize>,
    /// The most requests that were being answered at once.
    pub peak: usize,
    /// When each piece of a streamed answer was sent, by request.
    pub sent: HashMap<usize, Vec<Instant>>,
    /// Whether the test is over.
    pub stopping: bool,
}

impl Shared {
    /// The state, for this thread alone.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` has something to say; `None` when time is up.
    pub fn wait<T>(&self, limit: Duration, ready: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(value) = ready(&state) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The client of `connection` has closed it; an abort if `request` was still being answered.
    pub fn left(&self, connection: usize, request: usize) {
        let mut state = self.lock();
        state.gone.insert(connection);
        if state.running.get(&connection) == Some(&request) {
            state.running.remove(&connection);
            state.aborts.push(Instant::now());
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl Upstream {
    /// Listens on a free port and says hello to everybody.
    pub fn start() -> Self {
        let listener = listen().expect("a free port");
        let addr = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                requests: Vec::new(),
                aborts: Vec::new(),
                queue: VecDeque::new(),
                choose: Arc::new(|_| Script::hello()),
                gates: 0,
                open: HashSet::new(),
                slack: HashMap::new(),
                live: HashMap::new(),
                gone: HashSet::new(),
                running: HashMap::new(),
                peak: 0,
                sent: HashMap::new(),
                stopping: false,
            }),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { continue };
                let shared = accepting.clone();
                if shared.lock().stopping {
                    return;
                }
                thread::spawn(move || {
                    let _ = Connection::serve(&shared, connection, &stream);
                    shared.lock().live.remove(&connection);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { addr, shared }
    }

    /// The base URL for `--provider-url`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// A gate that is closed.
    pub fn gate(&self) -> Gate {
        let mut state = self.shared.lock();
        state.gates += 1;
        Gate { id: state.gates, shared: self.shared.clone() }
    }

    /// Leads one reply, which does nothing yet.
    pub fn leash(&self) -> Leash {
        let mut state = self.shared.lock();
        let id = state.slack.len();
        state.slack.insert(id, Slack::default());
        Leash { id, shared: self.shared.clone() }
    }

    /// Answers the next request that has no script yet with this one.
    pub fn next(&self, script: impl Into<Script>) {
        self.shared.lock().queue.push_back(script.into());
    }

    /// Drops the scripts that are still queued.
    pub fn forget(&self) {
        self.shared.lock().queue.clear();
    }

    /// Answers every request that finds no queued script with this one.
    pub fn always(&self, script: impl Into<Script>) {
        let script = script.into();
        self.choose(move |_| script.clone());
    }

    /// Answers every request that finds no queued script with what `choose` makes of it.
    pub fn choose(&self, choose: impl Fn(&Recorded) -> Script + Send + Sync + 'static) {
        self.shared.lock().choose = Arc::new(choose);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// How many requests have come so far.
    pub fn asked(&self) -> usize {
        self.shared.lock().requests.len()
    }

    /// Drops what was recorded so far, so that long runs do not keep everything.
    pub fn forget_requests(&self) {
        let mut state = self.shared.lock();
        state.requests.clear();
        state.sent.clear();
    }

    /// When each piece of the streamed answer to a request was sent; `request` counts as [`Self::requests`] does.
    pub fn sent(&self, request: usize) -> Vec<Instant> {
        self.shared.lock().sent.get(&request).cloned().unwrap_or_default()
    }

    /// Waits until so many connections have been closed by the client, whenever that was.
    pub fn wait_for_closed(&self, count: usize) {
        let closed = self.shared.wait(PATIENCE, |state| (state.gone.len() >= count).then_some(()));
        closed.expect("the connections to the provider are closed");
    }

    /// The latest request.
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("the upstream was asked")
    }

    /// The most requests that were being answered at once.
    pub fn peak(&self) -> usize {
        self.shared.lock().peak
    }

    /// Waits until so many requests have come.
    pub fn wait_for_requests(&self, count: usize) -> Vec<Recorded> {
        let come = self
            .shared
            .wait(PATIENCE, |state| (state.requests.len() >= count).then(|| state.requests.clone()));
        come.unwrap_or_else(|| panic!("only {} of {count} requests came", self.requests().len()))
    }

    /// Waits until so many requests have come, or until there is something to be read from `client`, which
    /// says then that no request will come; tells whether they have come.
    pub fn wait_for_requests_or(&self, count: usize, client: &TcpStream) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let _ = client.set_nonblocking(true);
        let come = loop {
            let come = self
                .shared
                .wait(Duration::from_millis(10), |state| (state.requests.len() >= count).then_some(()));
            if come.is_some() {
                break true;
            }
            if matches!(client.peek(&mut [0]), Ok(1)) {
                break false;
            }
            assert!(Instant::now() < deadline, "neither a request nor an answer comes");
        };
        let _ = client.set_nonblocking(false);
        come
    }

    /// Waits until the client has left in the middle of `count` answers; answers when.
    pub fn wait_for_aborts(&self, count: usize) -> Vec<Instant> {
        let aborts =
            self.shared.wait(PATIENCE, |state| (state.aborts.len() >= count).then(|| state.aborts.clone()));
        aborts.unwrap_or_else(|| panic!("the provider's call is not ended though nobody reads it"))
    }

    /// Waits until the answer to a request is over; `request` counts as [`Self::requests`] does.
    pub fn wait_until_over(&self, request: usize) {
        let over = |state: &State| (!state.running.values().any(|running| *running == request)).then_some(());
        self.shared
            .wait(PATIENCE, over)
            .unwrap_or_else(|| panic!("the provider's call {request} does not end"));
    }

    /// Waits until no answer is being written.
    pub fn wait_until_idle(&self) {
        let idle = self.shared.wait(PATIENCE, |state| state.running.is_empty().then_some(()));
        idle.expect("the provider's calls end");
    }
}

/// A free port where a thousand connections may come at once: the standard library lets 128 of them wait, and the
/// others try again only after a second, and after two, and after four.
fn listen() -> std::io::Result<TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(BACKLOG)?.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        for stream in state.live.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts, so that it sees that it has to stop.
        let _ = TcpStream::connect(self.addr);
    }
}
