//! Trialnet.
