//! A client that writes all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::wait;
use crate::databases::Database;

/// A client that writes 50 rows a second through a Service, on one connection after another.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Written>,
}

/// What a client saw.
#[derive(Debug, Default)]
pub struct Written {
    /// How many rows were confirmed.
    pub rows: u64,
    /// Every error; of a row that failed it cannot be told whether it was written.
    pub errors: Vec<String>,
    /// The longest time between two rows that were confirmed.
    pub pause: Duration,
}

impl Written {
    /// Enabling and disabling are not noticed, but for the restart that some engines need.
    pub fn undisturbed<D: Database>(&self) {
        if D::RESTARTS {
            assert!(self.pause < Duration::from_secs(60), "clients could not write for {:?}: {:?}", self.pause, self.errors);
        } else {
            assert!(self.errors.is_empty(), "clients of the source saw errors: {:?}", self.errors);
        }
    }

    /// No row that was confirmed is missing, and no other was made up.
    pub fn all_there(&self, count: u64) {
        let most = self.rows + self.errors.len() as u64;
        assert!(
            (self.rows..=most).contains(&count),
            "{count} rows, and {} were confirmed; errors: {:?}",
            self.rows,
            self.errors.iter().take(9).collect::<Vec<_>>()
        );
    }
}

impl Writer {
    /// Makes the table and begins to write.
    pub async fn start<D: Database>(host: String) -> Self {
        // A Service reaches its pod a moment after the pod is ready.
        wait("the source answers through its Service", 120, || async { D::connect(&host).await?.prepare().await }).await;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write::<D>(&host, &seen))
        });
        Self { stop, thread }
    }

    /// Ends.
    pub fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn write<D: Database>(host: &str, stop: &AtomicBool) -> Written {
    const MOST: u64 = 50 * 60 * 30;
    let mut written = Written::default();
    let (mut next, mut confirmed) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) && next < MOST && written.errors.len() < 2000 {
        let mut client = match D::connect(host).await {
            Ok(client) => client,
            Err(error) => {
                written.errors.push(error);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        // A new connection every ten seconds: clients come and go.
        for _ in 0..500 {
            pace.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            next += 1;
            if let Err(error) = client.insert(next).await {
                written.errors.push(error);
                break;
            }
            written.rows += 1;
            written.pause = written.pause.max(confirmed.elapsed());
            confirmed = Instant::now();
        }
    }
    written
}

/// A client that looks through a Service whether a database answers.
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Reader {
    /// Begins once it answers.
    pub async fn start<D: Database>(host: String) -> Self {
        wait("the database answers through its Service", 120, || async { D::connect(&host).await?.takes_writes().await }).await;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(read::<D>(&host, &seen))
        });
        Self { stop, thread }
    }

    /// Ends once it answers; gives the longest time between two answers.
    pub fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn read<D: Database>(host: &str, stop: &AtomicBool) -> Duration {
    const MOST: Duration = Duration::from_secs(15 * 60);
    const PACE: Duration = Duration::from_millis(100);
    let (begun, mut pause) = (Instant::now(), Duration::ZERO);
    let mut answered = begun;
    while begun.elapsed() < MOST {
        let asked = async { D::connect(host).await?.takes_writes().await };
        if matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Ok(_))) {
            pause = pause.max(answered.elapsed());
            answered = Instant::now();
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        tokio::time::sleep(PACE).await;
    }
    pause
}

/// A client that looks through a Service at what a target serves: what it held before, or the copy, never anything else.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Watch {
    /// Before, the target has `held` rows and takes writes; the copy has `copied` or more and takes none.
    pub fn start<D: Database>(host: String, held: u64, copied: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let look = async move |wrong: &mut Vec<String>| {
            let mut client = D::connect(&host).await?;
            // On one connection, and so from one server.
            let (writes, rows) = (client.takes_writes().await?, client.count().await?);
            if !(writes && rows == held || !writes && rows >= copied) {
                wrong.push(format!("{rows} rows, takes writes: {writes}"));
            }
            Ok::<(), String>(())
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut wrong = Vec::new();
                while !seen.load(Ordering::Relaxed) {
                    // While it restarts there is no answer.
                    let _ = tokio::time::timeout(Duration::from_secs(2), look(&mut wrong)).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                wrong
            })
        });
        Self { stop, thread }
    }

    /// Ends; gives what was served and should not have been.
    pub fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
