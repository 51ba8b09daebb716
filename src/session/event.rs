//! What happens to a session that its caller should know of although no run fails of it.

/// Something that happened to a session; see [`Session::take_events`](super::Session::take_events).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The GPU device was lost in a run or before it, and the run went on.
    DeviceLost {
        /// What the device said.
        message: String,
        /// Whether a new device took the run over; the CPU did if not.
        on_new_device: bool,
    },
    /// A node's GPU kernel disagreed with the CPU, so the node runs on the CPU from now on.
    NodeDemoted {
        /// The node's name.
        node: String,
        /// Its operator.
        operator: String,
        /// How the results differ.
        message: String,
    },
}
