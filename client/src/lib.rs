//! Trains locally, clips, noises, masks, and trusts nobody.
