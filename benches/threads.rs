//! What sharing work costs: the time to hand parts that do nothing to a pool and wait for them, when its threads are awake
//! and after a pause in which they fell asleep. Run it with `cargo bench --bench threads`.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use modelet::Threads;

/// The shortest and the median of some times, in microseconds.
fn shortest_and_median(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    (micros(times[0]), micros(times[times.len() / 2]))
}

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{:>8} {:>24} {:>24}",
        "threads", "awake: min, median µs", "asleep: min, median µs"
    );
    for count in [2, 4, 8].into_iter().filter(|&count| count <= cores) {
        let threads = Threads::new(count);
        let dispatch = || {
            let began = Instant::now();
            threads.run(count, &|part| {
                black_box(part);
            });
            began.elapsed()
        };
        // The threads have started once they have run something.
        std::thread::sleep(Duration::from_millis(20));
        let _: Duration = (0..1000).map(|_| dispatch()).sum();
        let awake = shortest_and_median((0..100_000).map(|_| dispatch()).collect());
        let asleep = (0..100).map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            dispatch()
        });
        let asleep = shortest_and_median(asleep.collect());
        println!(
            "{count:>8} {:>15.2} {:>8.2} {:>15.2} {:>8.2}",
            awake.0, awake.1, asleep.0, asleep.1
        );
    }
}
