//! The way of a call: its bounds, who calls, its service.
//!
//! What backends send (gRPC by HTTP/2) goes this way at once. What browser pages send
//! comes to it through [`super::browser`] and gRPC-Web, over the HTTP router, which
//! costs each call more than all the rest of this way.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{Version, header};
use axum::middleware;
use futures::future::{BoxFuture, Either};
use jiff::SignedDuration;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower_layer::Layer;

use super::auth::methods::{self, Kind, Method};
use super::auth::{self, Auth};
use super::guard::{self, Bounds, Request, Response};
use super::proto::appointment_service_server::AppointmentServiceServer;
use super::proto::batch_service_server::BatchServiceServer;
use super::proto::notification_service_server::NotificationServiceServer;
use super::proto::operations_service_server::OperationsServiceServer;
use super::proto::recipient_service_server::RecipientServiceServer;
use super::proto::template_service_server::TemplateServiceServer;
use super::{Front, appointment, batch, browser, notification, operations, recipient, template};

/// What every path of the contract begins with.
const PACKAGE: &str = "/patientnotify.v1.";

/// The project's services behind their bounds. Clones are the same one.
#[derive(Clone)]
pub(super) struct Calls(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    auth: Arc<Auth>,
    notifications: NotificationServiceServer<notification::Notifications>,
    recipients: RecipientServiceServer<recipient::Recipients>,
    appointments: AppointmentServiceServer<appointment::Appointments>,
    batches: BatchServiceServer<batch::Batches>,
    templates: TemplateServiceServer<template::Templates>,
    operations: OperationsServiceServer<operations::Operations>,
}

impl Calls {
    pub(super) fn new(front: &Front, auth: &Arc<Auth>) -> Self {
        let max_bytes = front.config.request_max_bytes;
        let schedule_max = SignedDuration::try_from(front.schedule_max).unwrap_or(SignedDuration::MAX);
        let notifications = notification::Notifications::new(
            front.publisher.clone(),
            front.pool.clone(),
            schedule_max,
            Arc::clone(&front.notifications),
        );
        let recipients = recipient::Recipients { pool: front.pool.clone(), codes: front.codes.clone() };
        let appointments = appointment::Appointments {
            publisher: front.publisher.clone(),
            pool: front.pool.clone(),
            config: front.appointments.clone(),
            notices: Semaphore::new(appointment::NOTICES_MAX),
        };
        let batches = batch::Batches {
            pool: front.pool.clone(),
            renderer: Arc::clone(&front.renderer),
            stream_idle: Duration::from_millis(front.config.stream_idle_ms),
        };
        let templates = template::Templates { renderer: Arc::clone(&front.renderer) };
        let operations = operations::Operations::new(front.pool.clone(), front.operations.clone());
        let streams = (front.config.streams_max, front.config.streams_max_per_caller);
        let bounds = Bounds::new(front.config.concurrency, streams, front.shutdown.clone());
        Self(Arc::new(Inner {
            bounds,
            auth: Arc::clone(auth),
            notifications: NotificationServiceServer::new(notifications).max_decoding_message_size(max_bytes),
            recipients: RecipientServiceServer::new(recipients).max_decoding_message_size(max_bytes),
            appointments: AppointmentServiceServer::new(appointments).max_decoding_message_size(max_bytes),
            batches: BatchServiceServer::new(batches).max_decoding_message_size(max_bytes),
            templates: TemplateServiceServer::new(templates).max_decoding_message_size(max_bytes),
            operations: OperationsServiceServer::new(operations).max_decoding_message_size(max_bytes),
        }))
    }

    /// The same services for browser pages; from outside to inside: which pages may
    /// call, gRPC-Web, the way of every call.
    pub(super) fn for_browsers(&self, origins: &str) -> Router {
        let service = GrpcWebLayer::new().layer(self.clone());
        super::SERVICES
            .iter()
            .filter(|name| !name.is_empty())
            .fold(Router::new(), |router, name| {
                router.route_service(&format!("/{name}/{{*method}}"), service.clone())
            })
            .route_layer(middleware::from_fn_with_state(browser::Origins::parse(origins), browser::admit))
    }
}

impl Inner {
    async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path();
        match methods::find(path) {
            None => guard::call(&self.bounds, "other", request, async |_| no_such_method()).await,
            Some(method) if method.kind == Kind::Stream => {
                guard::stream::run(&self.bounds, method.path, request, |request| {
                    self.admitted(method, request)
                })
                .await
            }
            Some(method) => {
                guard::call(&self.bounds, method.path, request, |request| self.admitted(method, request))
                    .await
            }
        }
    }

    async fn admitted(&self, method: &'static Method, mut request: Request) -> Response {
        let admitted = auth::check(&self.auth, method, &mut request).await;
        if let Err(refusal) = admitted.and_then(|caller| self.bounds.seat(&request, &caller)) {
            return guard::refusal(refusal);
        }
        let Ok(answer) = self.serve(request).await;
        answer
    }

    /// By the service that the path names.
    fn serve(&self, request: Request) -> BoxFuture<'static, Result<Response, Infallible>> {
        let service = request.uri().path().strip_prefix(PACKAGE).and_then(|rest| rest.split_once('/'));
        match service.map(|(name, _)| name) {
            Some("NotificationService") => self.notifications.clone().call(request),
            Some("RecipientService") => self.recipients.clone().call(request),
            Some("AppointmentService") => self.appointments.clone().call(request),
            Some("BatchService") => self.batches.clone().call(request),
            Some("TemplateService") => self.templates.clone().call(request),
            Some("OperationsService") => self.operations.clone().call(request),
            _ => Box::pin(async { Ok(no_such_method()) }),
        }
    }
}

fn no_such_method() -> Response {
    Status::unimplemented("this server has no such method; reflection lists those it has").into_http()
}

impl Service<Request> for Calls {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(inner.answer(request).await) })
    }
}

/// Lets the calls of backends go their way at once, and all else through the router.
#[derive(Clone)]
pub(super) struct AtOnce(pub(super) Calls);

impl Layer<Routes> for AtOnce {
    type Service = Fork;

    fn layer(&self, router: Routes) -> Fork {
        Fork { calls: self.0.clone(), router }
    }
}

/// Where the two ways part.
#[derive(Clone)]
pub(super) struct Fork {
    calls: Calls,
    router: Routes,
}

impl Service<Request> for Fork {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<<Calls as Service<Request>>::Future, <Routes as Service<Request>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.router, cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if goes_at_once(&request) {
            Either::Left(self.calls.call(request))
        } else {
            Either::Right(self.router.call(request))
        }
    }
}

/// A call of the contract that is neither gRPC-Web nor from a browser's page.
fn goes_at_once(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    request.version() == Version::HTTP_2
        && request.uri().path().starts_with(PACKAGE)
        && kind.strip_prefix(b"application/grpc").is_some_and(|rest| !rest.starts_with(b"-web"))
        && !request.headers().contains_key(header::ORIGIN)
}

#[cfg(test)]
mod tests {
    use tonic::body::Body;

    use super::*;

    fn at_once(change: impl FnOnce(&mut Request)) -> bool {
        let mut request = axum::http::Request::post("http://front/patientnotify.v1.TemplateService/List")
            .version(Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(Body::empty())
            .unwrap();
        change(&mut request);
        goes_at_once(&request)
    }

    #[test]
    fn what_a_browser_sends_goes_by_the_router() {
        let kind = |kind: &'static str| {
            move |request: &mut Request| {
                request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
            }
        };
        assert!(at_once(|_| {}));
        assert!(at_once(kind("application/grpc+proto")));
        assert!(!at_once(kind("application/grpc-web+proto")));
        assert!(!at_once(kind("text/html")));
        assert!(!at_once(|request| *request.version_mut() = Version::HTTP_11));
        assert!(!at_once(|request| {
            request.headers_mut().insert(header::ORIGIN, "https://page.example".parse().unwrap());
        }));
        assert!(!at_once(|request| *request.uri_mut() = "/grpc.health.v1.Health/Check".parse().unwrap()));
    }
}
