//! Figures for Prometheus and for whoever watches over processes, over HTTP on a port of this machine alone.
//!
//! `/metrics` gives OpenMetrics text, `/healthz` says whether the coordinator does its work, `/readyz` whether it lets
//! clients in. What is shown are counts, sizes and times of the whole; no label names a client, so that their number is
//! bounded and nothing is told of anybody. There is no password: whoever may open a connection on this machine may read.

use std::{
    convert::Infallible,
    fmt,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use eranos_base::{Timestamp, UserError};
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    limits::{
        ACCEPT_AGAIN, METRICS_ANSWER_TIME_MAX, METRICS_CONNECTIONS_MAX, METRICS_REQUEST_LEN_MAX, METRICS_TIME_MAX,
    },
    offences::Offence,
    round::Phase,
    server::ServerFigures,
    status::{Ask, Live},
};

/// The address that `--metrics` without one means.
pub const METRICS_ADDRESS: &str = "127.0.0.1:9464";

/// An open port for those who watch.
pub struct MetricsListener(TcpListener);

impl MetricsListener {
    /// Opens the port.
    ///
    /// # Errors
    /// If the address is not this machine's alone, or in use.
    pub fn bind(address: SocketAddr) -> Result<Self, UserError> {
        if !address.ip().is_loopback() {
            let what = format!("metrics = {address} could be reached from elsewhere, without a password");
            return Err(UserError::new(
                what,
                format!(
                    "choose a loopback address, such as {METRICS_ADDRESS}; to let others read, put a proxy before it"
                ),
            ));
        }
        let bind = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Self(listener))
        };
        bind().map_err(|error: std::io::Error| {
            UserError::new(format!("cannot listen for metrics on {address}: {error}"), "choose another port")
        })
    }

    /// The address listened on.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until the result is dropped. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the runtime does not take the socket.
    pub(crate) fn serve(self, asks: mpsc::Sender<Ask>, figures: ServerFigures) -> std::io::Result<Serving> {
        let listener = tokio::net::TcpListener::from_std(self.0)?;
        Ok(Serving(tokio::spawn(accept(listener, Source { asks, figures }))))
    }
}

/// The port while it answers; it goes with this.
pub(crate) struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: tokio::net::TcpListener, source: Source) {
    let places = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    loop {
        // Whoever comes while all places are taken waits in the system's queue, which is bounded too.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the metrics' port does not accept");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let source = source.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let source = source.clone();
                async move { Ok::<_, Infallible>(source.answer(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(METRICS_ANSWER_TIME_MAX)
                .max_buf_size(METRICS_REQUEST_LEN_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever breaks off, or is too slow, asks again.
            let _ = timeout(METRICS_TIME_MAX, connection).await;
            drop(place);
        });
    }
}

/// Where the figures come from.
#[derive(Clone)]
struct Source {
    asks: mpsc::Sender<Ask>,
    figures: ServerFigures,
}

impl Source {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET alone\n");
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/healthz" => match self.ask().await {
                Some(_) => text(StatusCode::OK, "healthy\n"),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "the coordinator does not answer\n"),
            },
            "/readyz" => match self.ask().await {
                None => text(StatusCode::SERVICE_UNAVAILABLE, "the coordinator does not answer\n"),
                Some(live) if live.phase == "over" => text(StatusCode::SERVICE_UNAVAILABLE, "the task is over\n"),
                Some(_) if self.figures.is_stale() => {
                    text(StatusCode::SERVICE_UNAVAILABLE, "the revocation list is past its date: nobody is let in\n")
                }
                Some(_) => text(StatusCode::OK, "ready\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    async fn ask(&self) -> Option<Live> {
        let answered = async {
            let (ask, answer) = oneshot::channel();
            self.asks.send(ask).await.ok()?;
            answer.await.ok()
        };
        timeout(METRICS_ANSWER_TIME_MAX, answered).await.ok().flatten()
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let Some(live) = self.ask().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the coordinator does not answer\n");
        };
        let mut registry = Registry::with_prefix("eranos");
        registry.register_collector(Box::new(Scrape { live, figures: self.figures.clone() }));
        let mut body = String::new();
        if encode(&mut body, &registry).is_err() {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written\n");
        }
        let mut response = Response::new(Full::new(body.into()));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OPEN_METRICS));
        response
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Everything at one moment.
struct Scrape {
    live: Live,
    figures: ServerFigures,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (live, figures) = (&self.live, &self.figures);
        let mut out = Out(&mut encoder);
        out.gauge("round", "The round under way, or waited for", None, live.round)?;
        out.family("phase", "1 for the phase of the round, 0 for the others", MetricType::Gauge, |family| {
            for phase in Phase::ALL.map(Phase::name).into_iter().chain(["settle", "over"]) {
                let is_now = u64::from(phase == live.phase);
                ConstGauge::new(is_now).encode(family.encode_family(&[("phase", phase)])?)?;
            }
            Ok(())
        })?;
        let left = Duration::from_millis(live.phase_left_ms).as_secs_f64();
        out.gauge("phase_left", "By when the phase ends at the latest", Some(&Unit::Seconds), left)?;
        out.counter("rounds_released", "Rounds with a result", None, u64::from(live.released))?;
        out.counter("attempts", "Rounds begun, each charged to its clients", None, u64::from(live.attempts))?;
        if let Some(epsilon) = live.epsilon {
            out.gauge("epsilon_charged", "Epsilon of all attempts; nothing without noise", None, epsilon)?;
        }
        out.gauge("cohort_clients", "Clients selected for the round", None, live.cohort as u64)?;
        out.gauge("waiting_clients", "Clients that checked in and are in no round", None, live.waiting as u64)?;
        out.gauge("connected_clients", "Clients that are connected", None, live.connected as u64)?;
        out.gauge("dropped_clients", "Clients that dropped out of the round", None, live.dropped.len() as u64)?;
        out.counter("dropped_clients_all", "Drop-outs of all rounds before", None, live.dropped_total)?;
        out.counter("received", "Headers and bodies of requests", Some(&Unit::Bytes), live.bytes_up_total)?;
        out.counter("sent", "Headers and bodies of answers", Some(&Unit::Bytes), live.bytes_down_total)?;
        if let Some(resident) = live.memory_resident {
            out.gauge("memory_resident", "Memory of the process", Some(&Unit::Bytes), resident)?;
        }
        out.gauge("handshakes", "Handshakes under way", None, figures.n_handshakes() as u64)?;
        out.counter("revocations_cut", "Connections cut by a revocation", None, figures.n_cut())?;
        out.family("offences", "Refusals by what was wrong", MetricType::Counter, |family| {
            for offence in Offence::ALL {
                let n = ConstCounter::new(figures.offences().n(offence));
                n.encode(family.encode_family(&[("kind", offence.name())])?)?;
            }
            Ok(())
        })?;
        let seconds = |at: Timestamp| at.unix_ms() as f64 / 1e3;
        let until = seconds(figures.certificate_not_after());
        out.gauge("certificate_expiry_timestamp", "Until when the certificate is valid", Some(&Unit::Seconds), until)?;
        let lists = figures.lists();
        // While the authority is exchanged there are two: the one that ends first stops everybody.
        if let Some(ends) = lists.iter().filter_map(|list| list.next_update).min() {
            let help = "Until when the revocation list is believed";
            out.gauge("revocation_list_expiry_timestamp", help, Some(&Unit::Seconds), seconds(ends))?;
        }
        let number = lists.iter().map(|list| list.number).max().unwrap_or(0);
        out.gauge("revocation_list_number", "The number of the revocation list in force", None, number)?;
        let n_revoked: usize = lists.iter().map(|list| list.n_revoked).sum();
        out.gauge("revoked_certificates", "Certificates on the revocation list", None, n_revoked as u64)
    }
}

/// Writes one metric after the other.
struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge<N>(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: N) -> fmt::Result
    where
        ConstGauge<N>: EncodeMetric,
    {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, unit, gauge.metric_type())?)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, unit, counter.metric_type())?)
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(&mut prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
