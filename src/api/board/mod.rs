//! The board: a page for whoever runs this system, live.
//!
//! One [`hub`] reads for all viewers, and only while somebody looks: each panel by itself and as
//! often as it changes, so that a part that is away leaves the others alone. Viewers get the
//! newest [`snapshot`] and no others, however slow they are. What somebody asks for or does
//! (a notification's story, dead letters) goes through the front's own gRPC methods
//! with the viewer's token: the board can do nothing that a caller cannot.
//!
//! Identifiers, codes and counts; never an address, a name or a content.

mod actions;
mod hub;
mod pages;
mod panels;
mod snapshot;
mod verdict;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::calls::Calls;
use super::operations;
use hub::Hub;

/// Viewers at once on one replica.
const VIEWERS_MAX: usize = 50;

/// What the handlers share.
#[derive(Clone)]
struct Board {
    hub: Arc<Hub>,
    auth: Arc<Auth>,
    calls: Calls,
    page: Arc<str>,
}

/// The page at `/` and what it asks for, below `/board`.
pub(super) fn router(
    (auth, calls): (&Arc<Auth>, &Calls),
    (pool, operations): (Pool, operations::Setup),
    links: &[(String, String)],
    shutdown: CancellationToken,
) -> Router {
    let board = Board {
        hub: Hub::start(pool, operations, shutdown),
        auth: Arc::clone(auth),
        calls: calls.clone(),
        page: pages::page(links).into(),
    };
    Router::new()
        .route("/", get(pages::index))
        .route("/board/board.css", get(pages::style))
        .route("/board/board.js", get(pages::script))
        .route("/board/events", get(pages::events))
        .route("/board/story/{id}", get(actions::story))
        .route("/board/dead-letters", get(actions::dead_letters))
        .route("/board/dead-letters/replay", post(actions::replay))
        .with_state(board)
}
