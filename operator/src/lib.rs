//! The cluster side of tcp-close-tuning.
