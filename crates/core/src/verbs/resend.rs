//! Resending: another code for the same challenge.
