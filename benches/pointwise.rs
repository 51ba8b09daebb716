//! Pointwise tiles against the loop one would write by hand for the same expression: nanoseconds per element and the
//! ratio of the two, once in cache and once in memory. `cargo bench --bench pointwise`

#[path = "pointwise_cases/mod.rs"]
mod pointwise_cases;

use pointwise_cases::{Bench, CASES};
use std::time::Instant;

fn main() {
    println!(
        "{:24} {:>9} {:>11} {:>11} {:>7}",
        "expression", "elements", "tiles ns", "by hand ns", "ratio"
    );
    for (index, name) in CASES.iter().enumerate() {
        for rows in [16, 4096] {
            let mut bench = Bench::new(index, rows);
            let (mut tiles, mut by_hand) = (f64::INFINITY, f64::INFINITY);
            let repeats = 40_000_000 / bench.elements() / 20 + 1;
            for _ in 0..20 {
                let start = Instant::now();
                (0..repeats).for_each(|_| bench.tiles());
                tiles = tiles.min(start.elapsed().as_secs_f64());
                let start = Instant::now();
                (0..repeats).for_each(|_| bench.by_hand());
                by_hand = by_hand.min(start.elapsed().as_secs_f64());
            }
            let scale = 1e9 / (repeats * bench.elements()) as f64;
            println!(
                "{name:24} {:9} {:11.3} {:11.3} {:7.2}",
                bench.elements(),
                tiles * scale,
                by_hand * scale,
                tiles / by_hand
            );
        }
    }
}
