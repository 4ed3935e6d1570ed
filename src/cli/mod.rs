//! What an operator types beside the deployments.

pub mod produce;
pub mod schemas;
pub mod topics;
