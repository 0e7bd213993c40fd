//! Clip, rotate, quantize, discrete noise, accountants, budgets.
