//! Lays out values in an arena: values that live at the same time never share memory.

use crate::tensor::sorted_positions;

/// A value that wants memory from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Bytes.
    pub len: usize,
    /// The step that writes it.
    pub first: usize,
    /// The last step that uses it.
    pub last: usize,
}

/// Alignment of every offset, in bytes.
pub(super) const ALIGNMENT: usize = 16;

/// An offset for each value, and the size of the whole arena. Large values are placed first, each at the lowest offset
/// that is free for its whole life, which in practice stays within a few per cent of the peak of live bytes.
pub fn lay_out(values: &[Lifetime]) -> (Vec<usize>, usize) {
    let order = sorted_positions(values.len(), &|a, b| {
        let (a, b) = (&values[a], &values[b]);
        b.len.cmp(&a.len).then(a.first.cmp(&b.first))
    });
    let mut offsets = vec![0; values.len()];
    // Placed values ordered by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(values.len());
    let mut total = 0;
    for index in order {
        let value = values[index];
        if value.len == 0 {
            continue;
        }
        let len = value.len.next_multiple_of(ALIGNMENT);
        let mut offset = 0;
        for &other in &placed {
            let neighbour = values[other];
            if neighbour.first > value.last || neighbour.last < value.first {
                continue;
            }
            if offsets[other] >= offset + len {
                break;
            }
            offset = offset.max(offsets[other] + neighbour.len.next_multiple_of(ALIGNMENT));
        }
        offsets[index] = offset;
        total = total.max(offset + len);
        let position = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(position, index);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_live_at_the_same_time_never_overlap() {
        let mut seed = 1u64;
        let mut random = |bound: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % bound
        };
        for _ in 0..200 {
            let values: Vec<Lifetime> = (0..40)
                .map(|_| {
                    let first = random(30);
                    Lifetime {
                        len: random(200),
                        first,
                        last: first + random(6),
                    }
                })
                .collect();
            let (offsets, total) = lay_out(&values);
            let mut peak = 0;
            for step in 0..40 {
                let live = values.iter().filter(|value| value.first <= step && step <= value.last);
                peak = peak.max(live.map(|value| value.len).sum());
            }
            assert!(total >= peak);
            for (i, a) in values.iter().enumerate() {
                assert_eq!(offsets[i] % ALIGNMENT, 0);
                assert!(offsets[i] + a.len <= total);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last && a.len > 0 && b.len > 0;
                    let apart = offsets[i] + a.len <= offsets[j] || offsets[j] + b.len <= offsets[i];
                    assert!(!together || apart, "{i} and {j}");
                }
            }
        }
    }

    #[test]
    fn a_chain_alternates_between_two_places() {
        let values: Vec<Lifetime> = (0..10)
            .map(|step| Lifetime {
                len: 64,
                first: step,
                last: step + 1,
            })
            .collect();
        assert_eq!(lay_out(&values).1, 128);
    }
}
