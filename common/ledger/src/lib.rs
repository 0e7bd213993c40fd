//! The log of every attempt, its proofs, and the auditor that trusts nobody.
