//! Passes on small graphs: what they leave, and that it still computes the same.
