//! The node side of tcp-close-tuning.
