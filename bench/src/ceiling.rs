//! The ceilings: the least that any server of this kind must do, as processes of their own.
//!
//! [`hyper`] reads a JSON document and writes it back. [`commit`] reads the documents of the main job, and keeps one row
//! for each before it answers, in the same engine with the same settings as the server, committed in groups. Neither
//! knows who asks or what is true, so no server with this engine and this HTTP library can be faster.
//!
//! With a sink, [`commit`] also hands out ids, sends codes and judges answers: a stand-in on which the driver is tested
//! without the server.

use crate::{chance, new_id};
use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::{Json, Path as Segment, State};
use axum::http::StatusCode;
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Rows that one commit takes at most.
const GROUP: usize = 512;

/// How often the write-ahead log is carried over into the database.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(50);

/// A commit that takes this long makes waiting for company worth while.
const WORTH_WAITING: Duration = Duration::from_millis(1);

/// Connections from the stand-in to the sink.
const SINK_CONNECTIONS: usize = 16;

/// Reads JSON and writes it back, until standard input is closed.
///
/// # Errors
/// No port.
pub async fn hyper() -> Result<()> {
    let listener = listen().await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that hangs up is how every measurement ends.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(echo)).await;
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let value: Value = serde_json::from_slice(&body)?;
    let answer = Response::builder().header("Content-Type", "application/json");
    Ok(answer.body(Full::new(serde_json::to_vec(&value)?.into()))?)
}

/// Keeps a row of `row_bytes` bytes in `folder` for each request, until standard input is closed.
///
/// # Errors
/// No port, or a folder in which no database can be made.
pub async fn commit(folder: &Path, row_bytes: usize, sink: Option<SocketAddr>) -> Result<()> {
    let rows = open(&folder.join("ceiling.db"))?;
    let standing_in = sink.map(|sink| StandIn::new(sink, SINK_CONNECTIONS));
    let house = Arc::new(House { rows, tenant: Uuid::from_bytes(chance()?), row_bytes, standing_in });
    let doors = Router::new()
        .route("/ciam-mfa/v2/get/token", post(token))
        .route("/ciam-mfa/v2/deviceAuthentications", post(request))
        .route("/ciam-mfa/v2/deviceAuthentications/{id}", post(verify))
        .with_state(house);
    let listener = listen().await?;
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |socket| {
            // Without it the small answers would wait for acknowledgements; the server sets it too.
            let _ = socket.set_nodelay(true);
        }),
        doors,
    )
    .await?;
    Ok(())
}

async fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let base_url = format!("http://{}", listener.local_addr()?);
    println!("{}", json!({ "base_url": base_url, "client_id": "bench", "client_secret": "bench" }));
    crate::end_with_standard_input();
    Ok(listener)
}

struct House {
    rows: mpsc::Sender<Waiting>,
    tenant: Uuid,
    row_bytes: usize,
    standing_in: Option<StandIn>,
}

/// A row, and who waits until it is durable.
type Waiting = (Row, oneshot::Sender<()>);

struct Row {
    tenant: Uuid,
    id: Uuid,
    body: Vec<u8>,
}

impl House {
    /// Keeps `fact`, filled up to the size of the server's rows. Durable when this returns.
    async fn keep(&self, id: Uuid, fact: &str) -> Result<(), StatusCode> {
        let mut body = fact.as_bytes().to_vec();
        body.resize(self.row_bytes.max(body.len()), b'.');
        let (done, wait) = oneshot::channel();
        let sent = self.rows.send((Row { tenant: self.tenant, id, body }, done));
        sent.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        wait.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

async fn token() -> Json<Value> {
    Json(json!({ "access_token": "stand-in", "token_type": "Bearer", "expires_in": 7199 }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    user_name: String,
    phone_number: String,
    device_type: String,
}

async fn request(State(house): State<Arc<House>>, Json(asked): Json<Asked>) -> Result<(StatusCode, Json<Value>), StatusCode> {
    let id = new_id().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    house.keep(id, &format!("{} {} {}", asked.user_name, asked.phone_number, asked.device_type)).await?;
    if let Some(standing_in) = &house.standing_in {
        standing_in.send(id, &asked.phone_number);
    }
    Ok((StatusCode::CREATED, Json(json!({ "authId": id, "status": "SUCCESS", "message": "sent" }))))
}

#[derive(Deserialize)]
struct Answered {
    otp: String,
}

async fn verify(
    State(house): State<Arc<House>>,
    Segment(of): Segment<Uuid>,
    Json(answered): Json<Answered>,
) -> Result<(StatusCode, Json<Value>), StatusCode> {
    let right = house.standing_in.as_ref().is_none_or(|it| it.judge(of, &answered.otp));
    let id = new_id().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    house.keep(id, &format!("{of} {}", answered.otp)).await?;
    Ok(if right {
        (StatusCode::OK, Json(json!({ "status": "SUCCESS", "message": "validated" })))
    } else {
        (StatusCode::BAD_REQUEST, Json(json!({ "code": "10008", "message": "incorrect" })))
    })
}

/// Opens the database as the server does, and starts its writer and its checkpointer.
fn open(file: &Path) -> Result<mpsc::Sender<Waiting>> {
    let settings = "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -16384;";
    let mut writer = Connection::open(file).with_context(|| format!("opening {}", file.display()))?;
    writer.execute_batch(settings)?;
    writer.execute_batch(
        "CREATE TABLE IF NOT EXISTS kept (tenant BLOB NOT NULL, id BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tenant, id)) WITHOUT ROWID",
    )?;
    let checkpointer = Connection::open(file)?;
    checkpointer.execute_batch(settings)?;
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(CHECKPOINT_PAUSE);
            // Busy means that the next turn will do it.
            let _ = checkpointer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    });
    let (rows, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        if let Err(error) = write(&mut writer, &waiting) {
            eprintln!("The ceiling's writer fails: {error:#}");
        }
    });
    Ok(rows)
}

/// Takes all rows that wait, commits them once, then answers them all.
///
/// On a slow disk a writer that never waits for company splits its callers into two halves, each of which waits while the
/// other is flushed, and so does half of what the disk can do. This one waits for the callers that it has just answered,
/// for a small part of what a commit takes, and not at all where commits are fast or nobody else is about.
fn write(writer: &mut Connection, waiting: &mpsc::Receiver<Waiting>) -> Result<()> {
    let mut group: Vec<Waiting> = Vec::with_capacity(GROUP);
    let mut took = Duration::ZERO;
    let mut answered = 0;
    while let Ok(first) = waiting.recv() {
        group.push(first);
        group.extend(waiting.try_iter().take(GROUP - 1));
        if took >= WORTH_WAITING {
            let about = (group.len() + answered).min(GROUP);
            let until = Instant::now() + took / 4;
            while group.len() < about
                && let Ok(row) = waiting.recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                group.push(row);
            }
        }
        let transaction = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO kept (tenant, id, body) VALUES (?1, ?2, ?3)")?;
            for (row, _) in &group {
                insert.execute((row.tenant.as_bytes(), row.id.as_bytes(), &row.body))?;
            }
        }
        let began = Instant::now();
        transaction.commit()?;
        took = began.elapsed();
        answered = group.len();
        for (_, done) in group.drain(..) {
            // Nobody waits where a client has hung up.
            let _ = done.send(());
        }
    }
    Ok(())
}

/// Enough of a server to test the driver: codes are derived from numbers, and each is taken once.
struct StandIn {
    open: Mutex<HashMap<Uuid, String>>,
    messages: Vec<tokio::sync::mpsc::UnboundedSender<String>>,
    turn: std::sync::atomic::AtomicUsize,
}

impl StandIn {
    fn new(sink: SocketAddr, connections: usize) -> Self {
        let messages = (0..connections).map(|_| {
            let (messages, waiting) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(async move {
                if let Err(error) = carry(sink, waiting).await {
                    eprintln!("The stand-in cannot reach the sink: {error:#}");
                }
            });
            messages
        });
        Self { open: Mutex::default(), messages: messages.collect(), turn: Default::default() }
    }

    fn send(&self, id: Uuid, to: &str) {
        let code = &to[to.len().saturating_sub(6)..];
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, code.to_owned());
        let body = format!("{{\"to\":\"{to}\",\"text\":\"Your code is {code}.\"}}");
        let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The task behind a closed channel has said why it ended.
        let _ = self.messages[turn % self.messages.len()].send(body);
    }

    fn judge(&self, id: Uuid, code: &str) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let right = open.get(&id).is_some_and(|it| it == code);
        if right {
            open.remove(&id);
        }
        right
    }
}

async fn carry(sink: SocketAddr, mut waiting: tokio::sync::mpsc::UnboundedReceiver<String>) -> Result<()> {
    let mut socket = TcpStream::connect(sink).await?;
    socket.set_nodelay(true)?;
    let mut answer = [0; 1024];
    while let Some(body) = waiting.recv().await {
        let head = crate::message::post(sink, "/", "application/json", None, body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await?;
        let read = socket.read(&mut answer).await?;
        ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "the sink did not take a message");
    }
    Ok(())
}
