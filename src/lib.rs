//! Understudy: a Kubernetes operator that gives a database that already runs its replicas, in place, and takes them away again.

pub mod agent;
pub mod api;
pub mod controller;
pub mod engine;
pub mod events;
pub mod lease;
pub mod resources;
pub mod telemetry;
