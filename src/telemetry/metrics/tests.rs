use super::*;

#[test]
fn counters_of_a_process_that_starts_anew_go_on_and_gauges_start_anew() {
    let metrics = Metrics::new().unwrap().worker("w");
    let reading = |running, steps| WorkerReading {
        gauges: [running, 0, 0, 0, 0, 0],
        counters: [steps, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    let mut last = WorkerReading::default();
    metrics.follow(&mut last, reading(3, 10));
    metrics.follow(&mut last, reading(2, 15));
    metrics.follow(&mut last, WorkerReading::default());
    assert_eq!((metrics.running.get(), metrics.steps.get()), (0, 15));
    metrics.follow(&mut last, reading(1, 4));
    assert_eq!((metrics.running.get(), metrics.steps.get()), (1, 19));
}
