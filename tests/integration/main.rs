//! What the system promises, on real servers: Kafka, a schema registry,
//! PostgreSQL, and providers on real sockets. One module a promise.
//!
//! `make test` starts the servers and runs this; by hand:
//! `patient-notify stack run --free-ports -- cargo test --test integration`.

#![allow(clippy::unwrap_used, reason = "a test that fails by a panic says where")]
#![allow(missing_docs, reason = "what a test promises is its name")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test may print its figures")]

mod appointment_changes;
mod appointments;
mod back_pressure;
mod bad_input;
mod bad_records;
mod batch_exactness;
mod batches;
mod board;
mod bulk_lane;
mod cron_jobs;
mod callbacks;
mod clock_changes;
mod dead_letter_tools;
mod dependency_away;
mod doctor;
mod due_claims;
mod due_depth;
mod email_events;
mod endurance;
mod escalation;
mod every_rpc;
mod evidence;
mod examples;
mod exports;
mod front;
mod front_bounds;
mod front_notifications;
mod front_updates;
mod front_watch;
mod grpc_web;
mod harness;
mod holds;
mod inbound_texts;
mod inbox_page;
mod jobs;
mod lag_held;
mod lag_read;
mod measures_push;
mod no_health_information_leaks;
mod none_lost_none_doubled;
mod observability;
mod operations;
mod order_within_a_recipient;
mod provider_faults;
mod recipients;
mod recipients_changes;
mod recipients_erasure;
mod requests;
mod revoke_mid_delivery;
mod roles_and_configuration;
mod scaler;
mod shares_partitions;
mod status_out;
mod stories;
mod templates;
mod the_stack_leaves_nothing;
mod tools;
mod topics_admin;
mod traces;
mod unsubscribe;
mod updates;
mod verification;
mod webhooks;
mod who_may_call;
mod writer_evolution;
