//! A wire between a store and its database, on which a test lets an accident happen at the worst moment: at a commit.
//!
//! Owns what travels when; what has to be so afterwards, the tests say.

use crate::postgres::{self, Database};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens to the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// It reaches the database. What the database answers reaches nobody.
    Unheard,
    /// The same, and something in between says that the database crashed, as a pooler does.
    SaidToHaveCrashed,
    /// Its sender is cut off, and the database gets it all the same, later.
    Late,
}

/// How long an accident may take to happen.
const HAPPENS_WITHIN: Duration = Duration::from_secs(10);

/// A wire to the cluster of a database.
pub struct Wire {
    pub port: u16,
    /// The URL of the database by this wire.
    pub url: String,
    moments: Arc<Moments>,
}

#[derive(Default)]
struct Moments {
    next: Mutex<Option<Accident>>,
    caught: Notify,
    cut: Notify,
    deliver: Notify,
    delivered: Notify,
}

impl Wire {
    pub async fn to(database: &Database) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (port, to) = (tcp.local_addr().expect("an address").port(), database.cluster.port);
        let moments = Arc::<Moments>::default();
        let its = moments.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = tcp.accept().await {
                let moments = its.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", to)).await?;
                    moments.carry(client, server).await
                });
            }
        });
        Self { port, url: postgres::url(&[port], &database.name), moments }
    }

    /// Lets this happen to the next commit.
    pub fn next(&self, accident: Accident) {
        *self.moments.next.lock().unwrap() = Some(accident);
    }

    /// The same, and its sender is cut off as soon as it has happened.
    pub fn next_at_once(&self, accident: Accident) {
        self.next(accident);
        self.cut();
    }

    /// Waits until the accident has happened: the database has answered the commit, or the wire alone has it.
    pub async fn caught(&self) {
        tokio::time::timeout(HAPPENS_WITHIN, self.moments.caught.notified()).await.expect("a commit comes");
    }

    /// Cuts off who sent the commit.
    pub fn cut(&self) {
        self.moments.cut.notify_one();
    }

    /// Gives a late commit to the database, and waits until it has answered.
    pub async fn deliver(&self) {
        self.moments.deliver.notify_one();
        tokio::time::timeout(HAPPENS_WITHIN, self.moments.delivered.notified()).await.expect("the database answers");
    }
}

impl Moments {
    async fn carry(&self, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                count = client.read(&mut asked) => {
                    let said = &asked[..count?];
                    if said.is_empty() {
                        return Ok(());
                    }
                    match self.accident(said) {
                        Some(Accident::Late) => return self.late(said.to_vec(), client, server).await,
                        Some(accident) => return self.unheard(accident, said, client, server).await,
                        None => server.write_all(said).await?,
                    }
                }
                count = server.read(&mut answered) => {
                    let said = &answered[..count?];
                    if said.is_empty() {
                        return Ok(());
                    }
                    client.write_all(said).await?;
                }
            }
        }
    }

    /// Whether it is time for an accident.
    fn accident(&self, said: &[u8]) -> Option<Accident> {
        let mut next = self.next.lock().unwrap();
        let begins = match next.as_ref()? {
            Accident::Late => has(said, b"BEGIN ISOLATION"),
            Accident::Unheard | Accident::SaidToHaveCrashed => has(said, b"COMMIT\0"),
        };
        if begins { next.take() } else { None }
    }

    async fn unheard(&self, accident: Accident, said: &[u8], mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        server.write_all(said).await?;
        ends(&mut server).await?;
        self.caught.notify_one();
        self.cut.notified().await;
        if accident == Accident::SaidToHaveCrashed {
            let text = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0";
            let length = u32::try_from(text.len() + 4).expect("it is short");
            client.write_all(&[b"E", &length.to_be_bytes()[..], text].concat()).await?;
        }
        client.shutdown().await
    }

    async fn late(&self, mut held: Vec<u8>, mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
        while !has(&held, b"COMMIT\0") {
            client.read_buf(&mut held).await?;
        }
        self.caught.notify_one();
        self.cut.notified().await;
        drop(client);
        self.deliver.notified().await;
        server.write_all(&held).await?;
        ends(&mut server).await?;
        self.delivered.notify_one();
        Ok(())
    }
}

/// Reads until the database says how the transaction has ended.
async fn ends(server: &mut TcpStream) -> io::Result<()> {
    let mut said = Vec::new();
    while !has(&said, b"COMMIT\0") && !has(&said, b"ROLLBACK\0") {
        if server.read_buf(&mut said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn has(said: &[u8], what: &[u8]) -> bool {
    said.windows(what.len()).any(|some| some == what)
}
