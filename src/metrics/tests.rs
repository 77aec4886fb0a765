use super::*;

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn the_traffic_of_each_transport_is_counted_apart() {
    let metrics = Metrics::new();
    metrics.opened(Transport::Ws);
    metrics.opened(Transport::Ws);
    metrics.closed(Transport::Ws);
    metrics.delivered(Transport::Ws, 3, 100);
    for (items, bytes) in [(3.0, 100.0), (5.0, 150.0)] {
        let text = metrics.text(&Snapshot::default());
        assert_eq!(value(&text, "switchback_subscriptions{transport=\"ws\"}"), Some(1.0));
        assert_eq!(value(&text, "switchback_subscriptions_opened_total{transport=\"ws\"}"), Some(2.0));
        assert_eq!(value(&text, "switchback_delivered_items_total{transport=\"ws\"}"), Some(items));
        assert_eq!(value(&text, "switchback_delivered_bytes_total{transport=\"ws\"}"), Some(bytes));
        assert_eq!(value(&text, "switchback_delivered_items_total{transport=\"sse\"}"), Some(0.0));
        metrics.delivered(Transport::Ws, 2, 50);
    }
}

#[test]
fn a_client_creates_no_time_series() {
    let metrics = Metrics::new();
    metrics.switched("ws.sse.silent");
    (0..100).for_each(|number| metrics.switched(&format!("a{number}.b{number}.c{number}")));
    let text = metrics.text(&Snapshot::default());
    let series: Vec<&str> =
        text.lines().filter(|line| line.starts_with("switchback_transport_switches_total{")).collect();
    assert_eq!(
        series,
        [
            r#"switchback_transport_switches_total{from="other",reason="other",to="other"} 100"#,
            r#"switchback_transport_switches_total{from="ws",reason="silent",to="sse"} 1"#,
        ]
    );
}
