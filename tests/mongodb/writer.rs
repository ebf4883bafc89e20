//! A client that writes all the while, and remembers what was promised to it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::mongodb::bson::doc;
use ::mongodb::{Client, Database};

use super::common::{PASSWORD, until};
use super::server::{Server, options};

/// Between two writes, so that others get to work too.
const PACE: Duration = Duration::from_millis(5);
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    acknowledged: AtomicI64,
    longest: Mutex<Duration>,
    error: Mutex<String>,
}

/// Writes orders with the numbers 0, 1, 2 and so on, each once the majority has the one before, from a thread of its own.
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// To one server, whatever it is.
    pub fn to(server: &Server) -> Self {
        Self::begin(vec![server.port], server.password.clone())
    }

    /// To whichever of these takes the writes.
    pub fn to_set(servers: &[&Server]) -> Self {
        Self::begin(servers.iter().map(|server| server.port).collect(), servers[0].password.clone())
    }

    fn begin(ports: Vec<u16>, password: String) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write(&seen, &ports, &password));
        });
        Self { shared, thread: Some(thread) }
    }

    /// How many orders were acknowledged.
    pub fn acknowledged(&self) -> i64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits for some more of them.
    pub async fn goes_on(&self) {
        let wanted = self.acknowledged() + 20;
        let said = || format!("the writer stands still: {}", self.shared.error.lock().unwrap());
        until(async || (self.acknowledged() >= wanted).then_some(()), said).await;
    }

    /// The longest time from one acknowledged order to the next since this was last asked.
    pub fn longest(&self) -> Duration {
        std::mem::take(&mut *self.shared.longest.lock().unwrap())
    }

    /// Ends it, and proves that a server has every order that was acknowledged.
    pub async fn end(mut self, server: &Server) {
        self.halt();
        let acknowledged = self.acknowledged();
        assert!(acknowledged > 0);
        assert_eq!(server.orders_below(acknowledged).await, acknowledged, "an order was lost");
    }

    fn halt(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.halt();
    }
}

async fn write(shared: &Shared, ports: &[u16], password: &str) {
    assert!(password.is_empty() || password == PASSWORD);
    let shop = Client::with_options(options(ports, password)).unwrap().database("shop");
    let (mut number, mut last) = (0_i64, Instant::now());
    while !shared.stopped.load(Ordering::SeqCst) {
        match place(&shop, number).await {
            Ok(()) => {
                number += 1;
                shared.acknowledged.store(number, Ordering::SeqCst);
                let mut longest = shared.longest.lock().unwrap();
                *longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => *shared.error.lock().unwrap() = error,
        }
        tokio::time::sleep(PACE).await;
    }
}

/// An upsert: of a write whose answer was lost nobody knows whether it was made.
async fn place(shop: &Database, number: i64) -> Result<(), String> {
    let order = doc! {"q": {"_id": number}, "u": {"_id": number, "pieces": 1}, "upsert": true};
    let command = doc! {"update": "orders", "updates": [order], "writeConcern": {"w": "majority", "wtimeout": 3000}};
    let answer = tokio::time::timeout(ANSWER, shop.run_command(command)).await.map_err(|error| error.to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let failed = ["writeErrors", "writeConcernError"].iter().find_map(|key| answer.get(key));
    failed.map_or(Ok(()), |error| Err(error.to_string()))
}
