//! The client against sockets that do what the tests say.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use buf_list::BufList;
use bytes::Bytes;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server whose connections are served one after the other, the first one by the first of these, and so on; tells what
/// each answers.
fn serve<T: Send + 'static>(scripts: Vec<Box<dyn FnOnce(TcpStream) -> T + Send>>) -> (Target, Receiver<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let (told, results) = channel();
    thread::spawn(move || {
        for script in scripts {
            let stream = listener.accept().expect("a connection").0;
            stream.set_read_timeout(Some(PATIENCE)).expect("a setting");
            if told.send(script(stream)).is_err() {
                return;
            }
        }
    });
    (Target::parse(&url).expect("a target"), results)
}

/// Reads a request; its body, or nothing if the client has left.
fn request(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).expect("text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).expect("the whole body");
    Some(body)
}

fn client() -> Client {
    Client::new(Reach::Anywhere, PATIENCE)
}

async fn ask(client: &Client, target: &Target) -> Result<Answer, Unanswered> {
    let post = target.post([].into_iter())?;
    client.send(target, || post.with(Bytes::from_static(b"{}").into())).await
}

/// So many bytes, not all alike.
fn varied(size: u32) -> Bytes {
    (0..size).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

/// A body in small pieces and large ones, more of them than one write takes.
fn in_pieces(mut body: Bytes) -> BufList {
    let mut pieces = BufList::new();
    for size in [1, 500, 7_000, 2].into_iter().cycle().take(400) {
        pieces.push_chunk(body.split_to(size));
    }
    pieces.push_chunk(body);
    pieces
}

async fn whole(mut answer: Answer) -> String {
    let mut body = Vec::new();
    while answer.more(|piece| body.extend_from_slice(piece)).await.expect("a whole body") {}
    String::from_utf8(body).expect("text")
}

#[test]
fn an_answer_that_is_waited_for_is_small() {
    let size = size_of::<Answer>();
    assert!(size <= 192, "an answer: {size} bytes");
    let (client, target) = (client(), Target::parse("http://a/").expect("a target"));
    let post = target.post([].into_iter()).expect("a request");
    let size = size_of_val(&client.send(&target, || post.with(Bytes::new().into())));
    assert!(size <= 1_024, "a call: {size} bytes");
}

#[actix_rt::test]
async fn an_answer_without_length_goes_until_its_connection_ends() {
    let (target, _told) = serve(vec![Box::new(|mut stream: TcpStream| {
        request(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello, ").expect("written");
        stream.write_all(b"all of you").expect("written");
    })]);
    assert_eq!(whole(ask(&client(), &target).await.expect("an answer")).await, "hello, all of you");
}

#[actix_rt::test]
async fn a_head_may_come_byte_by_byte_after_an_interim_one() {
    let (target, _told) = serve(vec![Box::new(|mut stream: TcpStream| {
        request(&mut stream).expect("a request");
        stream.set_nodelay(true).expect("a setting");
        let long =
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nlong: {}\r\n", "x".repeat(2_000));
        let text = format!("{long}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        text.as_bytes().iter().for_each(|byte| stream.write_all(&[*byte]).expect("written"));
    })]);
    let answer = ask(&client(), &target).await.expect("an answer");
    assert_eq!(answer.status.as_u16(), 201);
    assert_eq!(whole(answer).await, "ok");
}

#[actix_rt::test]
async fn a_connection_is_used_again_once_its_answer_was_read() {
    let (target, told) = serve(vec![Box::new(|mut stream: TcpStream| {
        let mut asked = 0;
        while request(&mut stream).is_some() {
            asked += 1;
            stream.write_all(PLAIN).expect("written");
        }
        asked
    })]);
    let client = client();
    for _ in 0..3 {
        assert_eq!(whole(ask(&client, &target).await.expect("an answer")).await, "ok");
    }
    drop(client);
    assert_eq!(told.recv_timeout(PATIENCE).expect("the connection has ended"), 3);
}

#[actix_rt::test]
async fn a_kept_connection_that_is_closed_at_the_request_is_replaced_by_a_fresh_one_once() {
    let once = |answers: usize| {
        Box::new(move |mut stream: TcpStream| {
            for _ in 0..answers {
                request(&mut stream).expect("a request");
                stream.write_all(PLAIN).expect("written");
            }
            request(&mut stream).is_some()
        }) as Box<dyn FnOnce(TcpStream) -> bool + Send>
    };
    let (target, told) = serve(vec![once(1), once(1), once(0)]);
    let client = client();
    for _ in 0..2 {
        assert_eq!(whole(ask(&client, &target).await.expect("an answer")).await, "ok");
    }
    assert!(told.recv_timeout(PATIENCE).expect("told"), "it was asked over the kept connection");
    // The fresh one has not answered: it may have begun.
    let failed = ask(&client, &target).await.err().expect("no answer");
    assert!(matches!(failed, Unanswered::Left(_)), "{failed}");
}

#[actix_rt::test]
async fn a_connection_that_was_closed_or_written_to_meanwhile_is_not_used() {
    for more in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"] {
        let (closed, wait) = channel();
        let (target, told) = serve(vec![
            Box::new(move |mut stream: TcpStream| {
                request(&mut stream).expect("a request");
                stream.write_all(PLAIN).expect("written");
                stream.write_all(more).expect("written");
                if more.is_empty() {
                    drop(stream);
                    closed.send(()).expect("somebody waits");
                    return 0;
                }
                closed.send(()).expect("somebody waits");
                stream.read(&mut [0; 64]).unwrap_or_default()
            }) as Box<dyn FnOnce(TcpStream) -> usize + Send>,
            Box::new(|mut stream: TcpStream| {
                request(&mut stream).expect("a request");
                stream.write_all(PLAIN).expect("written");
                1
            }),
        ]);
        let client = client();
        let answer = ask(&client, &target).await.expect("an answer");
        wait.recv_timeout(PATIENCE).expect("it is closed, or written to");
        assert_eq!(whole(answer).await, "ok");
        // The socket's state is learned of when the thread waits for something.
        tokio::task::yield_now().await;
        assert_eq!(whole(ask(&client, &target).await.expect("an answer")).await, "ok");
        assert_eq!(told.recv_timeout(PATIENCE).expect("told"), 0, "it was asked over the first connection");
    }
}

/// A body that knows how many have it.
struct Had(Arc<[u8]>);

impl AsRef<[u8]> for Had {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[actix_rt::test]
async fn nothing_of_a_request_is_kept_while_its_answer_is_waited_for() {
    let ((asked, is_asked), (go, may_go)) = (channel(), channel::<()>());
    let (target, _told) = serve(vec![Box::new(move |mut stream: TcpStream| {
        for _ in 0..2 {
            request(&mut stream).expect("a request");
            asked.send(()).expect("told");
            may_go.recv_timeout(PATIENCE).expect("told");
            stream.write_all(PLAIN).expect("written");
        }
    })]);
    let (client, post) = (client(), target.post([].into_iter()).expect("a request"));
    let body: Arc<[u8]> = Arc::from(*b"{}");
    for connection in ["a fresh", "a kept"] {
        let answered = client.send(&target, || post.with(Bytes::from_owner(Had(body.clone())).into()));
        let let_go = async {
            let since = Instant::now();
            let mut read = false;
            while !read || Arc::strong_count(&body) > 1 {
                read |= is_asked.try_recv().is_ok();
                assert!(since.elapsed() < PATIENCE, "over {connection} connection");
                tokio::task::yield_now().await;
            }
            go.send(()).expect("told");
        };
        let (answer, ()) = tokio::join!(answered, let_go);
        assert_eq!(whole(answer.expect("an answer")).await, "ok");
    }
}

#[actix_rt::test]
async fn a_body_of_16_mb_in_many_pieces_arrives_whole() {
    let (target, told) = serve(vec![Box::new(|mut stream: TcpStream| {
        let body = request(&mut stream).expect("a request");
        stream.write_all(PLAIN).expect("written");
        body
    })]);
    let body = varied(16 << 20);
    let post = target.post([].into_iter()).expect("a request");
    let sent = || post.with(in_pieces(body.clone()));
    assert_eq!(whole(client().send(&target, sent).await.expect("an answer")).await, "ok");
    assert!(told.recv_timeout(PATIENCE).expect("told") == body, "it was changed");
}

#[actix_rt::test]
async fn what_is_not_read_stays_with_the_other_side() {
    const OFFERED: usize = 256 << 20;
    let (target, told) = serve(vec![Box::new(|mut stream: TcpStream| {
        request(&mut stream).expect("a request");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {OFFERED}\r\n\r\n").expect("written");
        stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a setting");
        let (piece, mut written) = (vec![0; 64 << 10], 0);
        while written < OFFERED {
            match stream.write(&piece) {
                Ok(count) => written += count,
                Err(_) => break,
            }
        }
        written
    })]);
    let mut answer = ask(&client(), &target).await.expect("an answer");
    let mut read = 0;
    assert!(answer.more(|piece| read += piece.len()).await.expect("some of it"));
    assert!((1..=16 << 10).contains(&read), "{read} bytes at once");
    let written = told.recv_timeout(PATIENCE).expect("told");
    assert!(written < OFFERED / 4, "{written} bytes were taken");
}

#[actix_rt::test]
async fn dropping_an_answer_or_a_call_closes_its_connection_at_once() {
    for head in [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"[..], b""] {
        let (came, come) = tokio::sync::oneshot::channel();
        let (target, told) = serve(vec![Box::new(move |mut stream: TcpStream| {
            request(&mut stream).expect("a request");
            stream.write_all(head).expect("written");
            came.send(()).expect("somebody waits");
            match stream.read(&mut [0]) {
                Ok(count) => count == 0,
                Err(cause) => cause.kind() == ErrorKind::ConnectionReset,
            }
        })]);
        let client = client();
        let mut asking = Box::pin(ask(&client, &target));
        if head.is_empty() {
            tokio::select! {
                _ = asking.as_mut() => panic!("there is an answer"),
                come = come => come.expect("the request has come"),
            }
        } else {
            drop(asking.as_mut().await.expect("an answer"));
        }
        drop(asking);
        assert!(told.recv_timeout(PATIENCE).expect("told"), "it stays open");
    }
}

#[actix_rt::test]
async fn what_is_no_answer_is_told_from_no_answer_at_all() {
    for (sent, malformed) in [
        (&b""[..], false),
        (b"HTTP/1.1 200", true),
        (b"SSH-2.0-OpenSSH_9.6\r\n", true),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", true),
    ] {
        let (target, _told) = serve(vec![Box::new(move |mut stream: TcpStream| {
            request(&mut stream).expect("a request");
            stream.write_all(sent).expect("written");
        })]);
        let failed = ask(&client(), &target).await.err().expect("no answer");
        assert_eq!(matches!(failed, Unanswered::Malformed(_)), malformed, "{failed}");
        assert_eq!(matches!(failed, Unanswered::Left(_)), !malformed, "{failed}");
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let nobody = Target::parse(&format!("http://{free}/")).expect("a target");
    assert!(matches!(ask(&client(), &nobody).await, Err(Unanswered::Unreached(_))));
    let (inside, _told) = serve(vec![Box::new(|_| ()) as Box<dyn FnOnce(TcpStream) + Send>]);
    let careful = Client::new(Reach::Public, PATIENCE);
    assert!(matches!(ask(&careful, &inside).await, Err(Unanswered::Unreached(_))));
}

/// The settings of a server that shows this certificate, and of a client that trusts it.
fn pair() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let names = vec!["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let shown = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(shown.clone()).expect("a certificate");
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![shown], key);
    let mut server = server.expect("settings");
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (Arc::new(server), connection::trusting(roots))
}

static TRUSTED: OnceLock<Arc<ClientConfig>> = OnceLock::new();

fn trusted() -> Arc<ClientConfig> {
    TRUSTED.get().expect("it was set").clone()
}

/// How the server sees a connection over TLS end: what it was asked, what was spoken, whom the client wanted.
type Seen = (Vec<Vec<u8>>, Option<Vec<u8>>, Option<String>, std::io::Result<usize>);

fn over_tls(settings: Arc<ServerConfig>) -> Box<dyn FnOnce(TcpStream) -> Seen + Send> {
    Box::new(move |stream| {
        let session = ServerConnection::new(settings).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        let mut asked = Vec::new();
        while asked.len() < 2
            && let Some(body) = request(&mut stream)
        {
            asked.push(body);
            let body = "x".repeat(40_000);
            let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}{chunk}").as_bytes()).expect("written");
            stream.flush().expect("written");
        }
        let ended = stream.read(&mut [0]);
        let spoken = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
        (asked, spoken, stream.conn.server_name().map(str::to_owned), ended)
    })
}

#[actix_rt::test]
async fn over_tls_a_connection_is_used_again_and_taken_leave_of() {
    let (server, trusting) = pair();
    TRUSTED.set(trusting).expect("set once");
    let (plain, told) = serve(vec![over_tls(server.clone()), over_tls(server)]);
    let url = plain.uri().to_string().replace("http://127.0.0.1", "https://localhost");
    let target = Target::parse(&url).expect("a target");
    let client = Client::speaking(Reach::Anywhere, PATIENCE, trusted);
    let (post, body) = (target.post([].into_iter()).expect("a request"), varied(1 << 20));
    for _ in 0..2 {
        let answer = client.send(&target, || post.with(in_pieces(body.clone()))).await;
        assert_eq!(whole(answer.expect("an answer")).await.len(), 40_000);
    }
    drop(client);
    let (asked, spoken, name, ended) = told.recv_timeout(PATIENCE).expect("told");
    assert!(asked == [body.clone(), body], "it was changed");
    assert_eq!((spoken.as_deref(), name.as_deref()), (Some(&b"http/1.1"[..]), Some("localhost")));
    assert_eq!(ended.expect("it was taken leave of"), 0);
    let strangers = ask(&self::client(), &target).await.err().expect("nobody vouches for it");
    assert!(matches!(strangers, Unanswered::Unreached(_)), "{strangers}");
}
