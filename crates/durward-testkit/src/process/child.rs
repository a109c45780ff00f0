//! A child process whose output is kept line by line, and that does not outlive its test.
//! It is never searched for by name: signals go to the process id that was started here.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

/// A running or ended child. Dropping it kills and reaps it; in a failing test its output is shown.
pub struct Child {
    inner: std::process::Child,
    name: String,
    log: Arc<Log>,
}

/// The lines of both output streams in the order of their arrival.
struct Log {
    lines: Mutex<Vec<String>>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    lines: usize,
    ended_streams: usize,
}

impl Child {
    /// Starts the command with captured output and without input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut inner =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::new(Log {
            lines: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
        });
        log.clone().follow(inner.stdout.take().expect("the output was piped"));
        log.clone().follow(inner.stderr.take().expect("the output was piped"));
        Self { inner, name, log }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// The lines so far, of standard output and standard error together.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.log.lines().clone()
    }

    /// The lines so far as one text.
    #[must_use]
    pub fn output(&self) -> String {
        self.log.lines().join("\n")
    }

    /// How many lines there are, to wait for later ones with `wait_for_line_since`.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.log.lines().len()
    }

    /// Waits for a line that contains the pattern, already written or yet to come, and returns it.
    ///
    /// # Panics
    /// When the deadline passes or the child ends without such a line; the message carries its output.
    pub async fn wait_for_line(&self, pattern: &str, deadline: Duration) -> String {
        self.wait_for_line_since(0, pattern, deadline).await
    }

    /// Like `wait_for_line`, without the first `mark` lines.
    ///
    /// # Panics
    /// See `wait_for_line`.
    pub async fn wait_for_line_since(
        &self,
        mark: usize,
        pattern: &str,
        deadline: Duration,
    ) -> String {
        let mut progress = self.log.progress.subscribe();
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let ended = progress.borrow_and_update().ended_streams == 2;
            if let Some(line) = self.log.find(mark, pattern) {
                return line;
            }
            if ended {
                panic!("{} ended without {pattern:?}; its output:\n{}", self.name, self.output());
            }
            if tokio::time::timeout_at(end, progress.changed()).await.is_err() {
                panic!(
                    "no {pattern:?} from {} within {deadline:?}; its output:\n{}",
                    self.name,
                    self.output()
                );
            }
        }
    }

    /// Like `wait_for_line`, for tests without a runtime.
    ///
    /// # Panics
    /// See `wait_for_line`.
    pub fn wait_for_line_blocking(&self, pattern: &str, deadline: Duration) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime starts").block_on(self.wait_for_line(pattern, deadline))
    }

    /// Sends a signal, unless the child has been waited for already.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.inner.try_wait(), Ok(None)) {
            let pid = Pid::from_child(&self.inner);
            kill_process(pid, signal).expect("one's own child can be signalled");
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        // Until the kernel has taken back its sockets, nobody else can have their addresses.
        let _ = self.inner.wait();
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.inner.try_wait(), Ok(None))
    }

    /// Waits for its end and returns how it ended.
    ///
    /// # Panics
    /// When the deadline passes; the message carries its output.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended(end, deadline) {
                self.log.drained().await;
                return status;
            }
            tokio::time::sleep(super::PAUSE).await;
        }
    }

    /// Like `wait`, for tests without a runtime.
    ///
    /// # Panics
    /// See `wait`.
    pub fn wait_blocking(&mut self, deadline: Duration) -> ExitStatus {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime starts").block_on(self.wait(deadline))
    }

    fn ended(&mut self, end: Instant, deadline: Duration) -> Option<ExitStatus> {
        let status = self.inner.try_wait().expect("one's own child can be waited for");
        if status.is_none() && Instant::now() >= end {
            panic!("{} still runs after {deadline:?}; its output:\n{}", self.name, self.output());
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when the child is gone, which is what is wanted.
        let _ = self.inner.kill();
        let _ = self.inner.wait();
        if std::thread::panicking() {
            let report =
                format!("--- output of {} ({})\n{}\n---\n", self.name, self.id(), self.output());
            let _ = std::io::stderr().write_all(report.as_bytes());
        }
    }
}

impl Log {
    /// Reads a stream on a thread of its own until it ends.
    fn follow(self: Arc<Self>, stream: impl Read + Send + 'static) {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                self.lines().push(line);
                self.progress.send_modify(|progress| progress.lines += 1);
            }
            self.progress.send_modify(|progress| progress.ended_streams += 1);
        });
    }

    fn find(&self, mark: usize, pattern: &str) -> Option<String> {
        self.lines().iter().skip(mark).find(|line| line.contains(pattern)).cloned()
    }

    /// Waits briefly for the rest of the output; a grandchild may hold the streams open longer.
    async fn drained(&self) {
        let mut progress = self.progress.subscribe();
        let both_ended = progress.wait_for(|progress| progress.ended_streams == 2);
        let _ = tokio::time::timeout(Duration::from_secs(1), both_ended).await;
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
