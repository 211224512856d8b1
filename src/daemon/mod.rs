//! What a running hostgate consists of: its parts are started and stopped in order here.
//!
//! The main thread starts everything, becomes the `supervisor`, which takes signals and watches the other threads, and in the
//! end stops everything at once without losing a query.

mod outages;
mod supervisor;
mod systemd;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::supervisor::{Supervisor, Why};
use crate::api::connection::socket::ControlSocket;
use crate::api::{self, Control};
use crate::listen::admin;
use crate::listen::admin::service::Service;
use crate::listen::missing_sockets::Purpose;
use crate::listen::sockets::{Feature, Sockets, Threads};
use crate::listen::takeover::{Offer, Offered, Takeover};
use crate::listen::tcp;
use crate::listen::udp::{Front, Shared};
use crate::reload::Reloader;
use crate::telemetry::heartbeat::{Heartbeat, Kind};

/// Serves until SIGTERM, SIGINT or a successor that serves, then answers what is in flight, for five seconds at most. Returns
/// what had not ended by then.
///
/// This is the main thread's work: see [`supervisor`].
///
/// # Errors
/// A thread, a socket or a signal handler that the operating system refuses, or a predecessor that serves on.
pub(crate) fn serve(
    runtime: &Runtime,
    service: &Arc<Service>,
    sockets: (Sockets, Option<Arc<Control>>),
    takeover: Option<Takeover>,
    reloader: Reloader,
) -> io::Result<Vec<&'static str>> {
    let (events, happened) = mpsc::sync_channel(EVENTS);
    runtime.spawn(outages::watch(Arc::clone(service)));
    supervisor::listen_for_signals(events.clone())?;
    let waker = reloader.waker();
    let offered = takeover.as_ref().map(Takeover::offered);
    if let Some(takeover) = &takeover {
        service.note_address(format!("unix:{}", takeover.path().display()));
    }
    let serving = Serving::start(runtime, service, sockets, (reloader, offered))?;
    {
        let state = service.progress.state();
        tracing::info!(
            generation = state.generation,
            hash = state.hash,
            policies = state.policies,
            blueprints = state.blueprints,
            clients = state.clients,
            "ready"
        );
    }
    let mut supervisor = Supervisor::new(Arc::clone(service), waker.clone(), serving.heartbeats());
    let offer = takeover.map(|takeover| takeover.serving(events, Arc::clone(&service.lacking))).transpose()?;
    let watched = supervisor.watch(&happened);
    supervisor.stopping();
    waker.stop();
    match watched {
        Ok(why) => {
            tracing::info!(why = why.as_str(), "stopping: answering what is in flight");
            Ok(serving.stop(why, offer))
        }
        Err(error) => {
            // What was taken from the sockets is answered; they, and the paths, are the predecessor's.
            serving.stop(Why::TakenOver, None);
            Err(error)
        }
    }
}

/// Serves the API once its socket can be had, until told to stop; `made` gets its path, if this process made it.
async fn serve_api(
    service: Arc<Service>,
    socket: Feature<ControlSocket>,
    control: Arc<Control>,
    (stop, offered): (watch::Receiver<bool>, Option<Offered>),
    made: Arc<OnceLock<PathBuf>>,
) {
    let is_late = socket.first.is_err();
    let Some(socket) = Arc::clone(&service.lacking).until_had(Purpose::Api, socket, stop.clone()).await else { return };
    if let ControlSocket::Unix { path, is_ours: true, .. } = &socket {
        // Set once, here.
        let _ = made.set(path.clone());
    }
    if is_late {
        service.listens("control", &socket);
        if let (Some(offered), Ok(socket)) = (offered, socket.duplicate()) {
            offered.add(socket);
        }
    }
    match api::connection::Listener::from_socket(socket) {
        Ok(listener) => api::connection::serve(listener, control, stop).await,
        Err(error) => service.lacking.note(Purpose::Api, None, &error.to_string()),
    }
}

/// Everything that serves.
struct Serving {
    /// What it serves.
    service: Arc<Service>,
    /// UDP.
    fronts: Vec<Front>,
    /// Set to stop UDP.
    stopping: Arc<AtomicBool>,
    /// TCP.
    tcp: Vec<JoinHandle<()>>,
    /// The API.
    api: Option<JoinHandle<()>>,
    /// Set to stop TCP, the API and the admin endpoint.
    stop: watch::Sender<bool>,
    /// The API's socket in the file system, once this process has made it.
    control_path: Arc<OnceLock<PathBuf>>,
    /// The thread that reloads.
    reload: thread::JoinHandle<()>,
    /// The heartbeats of all runtimes.
    runtimes: Vec<(Kind, Heartbeat)>,
}

impl Serving {
    /// Starts all threads and tasks.
    fn start(
        runtime: &Runtime,
        service: &Arc<Service>,
        (sockets, control): (Sockets, Option<Arc<Control>>),
        (reloader, offered): (Reloader, Option<Offered>),
    ) -> io::Result<Self> {
        let _in_runtime = runtime.enter();
        let (stop, stopped) = watch::channel(false);
        let stopping = Arc::<AtomicBool>::default();
        let shared = Shared {
            engine: Arc::clone(&service.engine),
            runtime: runtime.handle().clone(),
            stopping: Arc::clone(&stopping),
        };
        let (mut fronts, mut grouped, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
        for (number, listener) in sockets.listeners.into_iter().enumerate() {
            let address = listener.address;
            match sockets.threads {
                Threads::Each => fronts.push(Front::start(listener.udp, number, &shared)?),
                Threads::Shared(_) => grouped.extend(listener.udp.into_iter().map(|socket| (socket, number))),
            }
            service.listens("udp", address);
            listener.tcp.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener.tcp)?;
            let (engine, limits) = (Arc::clone(&service.engine), Arc::clone(&service.limits));
            tcp.push(runtime.spawn(tcp::serve(listener, number, engine, limits, stopped.clone())));
            service.listens("tcp", address);
        }
        if let Threads::Shared(threads) = sockets.threads {
            fronts.push(Front::start_shared(grouped, threads, &shared)?);
        }
        let mut runtimes = vec![(Kind::Runtime, Heartbeat::default())];
        runtime.spawn(admin::beat(runtimes[0].1.clone()));
        if let Some(socket) = sockets.admin {
            let heartbeat = Heartbeat::default();
            if let Ok(listener) = &socket.first {
                service.listens("admin", listener.local_addr()?);
            }
            admin::start(socket, Arc::clone(service), (stopped.clone(), offered.clone()), heartbeat.clone())?;
            runtimes.push((Kind::Admin, heartbeat));
        }
        let (mut api, control_path) = (None, Arc::default());
        if let (Some(socket), Some(control)) = (sockets.control, control) {
            if let Ok(socket) = &socket.first {
                service.listens("control", socket);
            }
            let (service, path) = (Arc::clone(service), Arc::clone(&control_path));
            api = Some(runtime.spawn(serve_api(service, socket, control, (stopped, offered), path)));
        }
        let reload = thread::Builder::new().name("reload".into()).spawn(move || reloader.run())?;
        let service = Arc::clone(service);
        Ok(Self { service, fronts, stopping, tcp, api, stop, control_path, reload, runtimes })
    }

    /// Returns the heartbeats to watch.
    fn heartbeats(&self) -> Vec<(String, Kind, Heartbeat)> {
        let reload = ("reload".to_owned(), Kind::Reload, self.service.progress.heartbeat().clone());
        let runtimes = self.runtimes.iter().map(|(kind, beats)| (kind.as_str().to_owned(), *kind, beats.clone()));
        let fronts = self.fronts.iter().flat_map(Front::heartbeats);
        fronts.map(|(name, beats)| (name, Kind::Udp, beats)).chain([reload]).chain(runtimes).collect()
    }

    /// Stops everything at once, and waits until it has ended, for [`DRAIN`] at most. Returns what has not.
    fn stop(self, why: Why, offer: Option<Offer>) -> Vec<&'static str> {
        let end = Instant::now() + DRAIN;
        self.service.stopping.store(true, Ordering::Relaxed);
        self.stopping.store(true, Ordering::Relaxed);
        // Before its socket is closed, so that the path is ours still; a successor has the same socket.
        let path = self.control_path.get().filter(|_| why != Why::TakenOver).cloned();
        let farewell = move || {
            if let Some(offer) = offer {
                offer.end();
            }
            if let Some(path) = path {
                // Should it be gone already, that is as well.
                let _ = fs::remove_file(path);
            }
        };
        // The file system may not answer.
        let (gone, farewell_ended) = mpsc::channel::<()>();
        let farewell = thread::Builder::new().name("farewell".into()).spawn(move || {
            farewell();
            drop(gone);
        });
        if farewell.is_ok() {
            let _ = farewell_ended.recv_timeout(FAREWELL);
        }
        // A receiver that is gone has stopped already.
        let _ = self.stop.send(true);
        while !self.unfinished().is_empty() && Instant::now() < end {
            thread::park_timeout(END_LOOK);
        }
        let mut unfinished = self.unfinished();
        let in_flight = self.service.engine.in_flight();
        if in_flight > 0 {
            tracing::warn!(in_flight, "stopped with queries unanswered");
            // No fault of this process: their upstreams are silent.
            unfinished.retain(|what| *what != UNANSWERED);
        }
        if !self.service.api.as_ref().is_some_and(|api| api.is_changing()) {
            // Nor are clients of the API that do not send what they began, or do not take their answers.
            unfinished.retain(|what| *what != UNTAKEN);
        }
        if !self.service.engine.close_decision_log(LAST_RECORDS) {
            unfinished.push("decision records");
        }
        if unfinished.is_empty() {
            tracing::info!("stopped");
        } else {
            tracing::error!(unfinished = unfinished.join(", "), "stopped at the deadline");
        }
        unfinished
    }

    /// Returns what has not ended yet.
    fn unfinished(&self) -> Vec<&'static str> {
        let queries = self.service.engine.in_flight() > 0
            || !self.fronts.iter().all(Front::has_ended)
            || !self.tcp.iter().all(JoinHandle::is_finished);
        let all = [
            (UNANSWERED, queries),
            (UNTAKEN, self.api.as_ref().is_some_and(|api| !api.is_finished())),
            ("a reload", !self.reload.is_finished()),
        ];
        all.into_iter().filter(|(_, is_unfinished)| *is_unfinished).map(|(what, _)| what).collect()
    }
}

/// How long queries in flight, and everything else that is under way, may take at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last decision records may take.
const LAST_RECORDS: Duration = Duration::from_secs(1);
/// How long removing the sockets in the file system may take before the others are closed all the same.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often shutdown looks whether everything has ended.
const END_LOOK: Duration = Duration::from_millis(5);
/// Events that wait for the main thread; their senders wait with more.
const EVENTS: usize = 16;
/// What has not ended when queries wait for answers.
const UNANSWERED: &str = "queries";
/// What has not ended when requests to the API are under way.
const UNTAKEN: &str = "API requests";
