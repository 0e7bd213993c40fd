//! Key agreement, shares, masks, packing and unmasking of one secure sum.
