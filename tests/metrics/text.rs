//! Reads Prometheus's text format.

use crate::support::Server;
use crate::support::http::Request;

/// The response to one request for the metrics.
pub(super) struct Metrics(pub(super) String);

impl Metrics {
    pub(super) async fn of(server: &Server) -> Self {
        Self::at(server.address()).await
    }

    pub(super) async fn at(address: &str) -> Self {
        let mut response = Request::get("/metrics").send(address).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Self(response.text().await)
    }

    /// The value of a series, with its labels in the order of their names.
    pub(super) fn value(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// The names of all metrics, as rules and dashboards use them: of a histogram its three series, too.
    pub(super) fn names(&self) -> Vec<String> {
        let described = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        described
            .flat_map(|(name, kind)| match kind {
                "histogram" => ["", "_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
                _ => vec![name.to_owned()],
            })
            .collect()
    }
}
