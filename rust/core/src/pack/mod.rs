//! Packing and planning: from sample lengths to rows to optimizer updates.
