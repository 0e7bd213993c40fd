//! Arranges rounds of secure aggregation.
