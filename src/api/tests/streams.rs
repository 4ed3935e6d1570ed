//! Bounds of streams over real sockets.

use super::*;

fn item(key: &str) -> proto::NotificationServiceSendManyRequest {
    proto::NotificationServiceSendManyRequest { item: Some(message(key)) }
}

#[tokio::test]
async fn a_stream_of_requests_has_a_bound_and_an_item_that_is_too_large_ends_it() {
    let (_serving, channel) = start(accepting()).await;
    let mut client = NotificationServiceClient::new(channel);
    let many = futures::stream::iter((0..10_100).map(|number| item(&format!("key-{number}"))));
    let answer = client.send_many(many).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.results.len()), (10_000, 10_000));
    let end = answer.end.unwrap();
    assert_eq!((end.code, end.reason.as_str()), (Code::OutOfRange.into(), "TOO_MANY_ITEMS"));

    let mut large = item("large");
    let variables = &mut large.item.as_mut().unwrap().variables;
    variables.insert("v".to_owned(), "x".repeat(65 * 1024));
    let status = client.send_many(futures::stream::iter([item("small"), large])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn streams_beyond_their_bound_are_refused_and_calls_are_not() {
    for (streams_max, streams_max_per_caller, reason) in [(1, 1, "OVERLOADED"), (2, 1, "QUOTA_EXCEEDED")] {
        let config = config::App { streams_max, streams_max_per_caller, ..app("127.0.0.1:0") };
        let serving = serve(front(config, accepting())).await.unwrap();
        a_second_stream_is_refused(&serving, reason).await;
    }
}

async fn a_second_stream_is_refused(serving: &Serving, reason: &str) {
    let mut client = NotificationServiceClient::new(connect(serving).await);
    let mut second = NotificationServiceClient::new(connect(serving).await);
    let begun = CancellationToken::new();
    let (of_stream, last) = (begun.clone(), CancellationToken::new());
    let until = last.clone();
    let items = async_items(of_stream, until);
    let held = tokio::spawn(async move { client.send_many(items).await });
    begun.cancelled().await;
    let refused = second.send_many(futures::stream::iter([item("key-2")])).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, reason);
    second.send(message("key-3")).await.unwrap();
    last.cancel();
    assert_eq!(held.await.unwrap().unwrap().into_inner().accepted, 1);
}

/// One item; `begun` once the server wants a second one, which never comes; the end
/// comes with `last`.
fn async_items(
    begun: CancellationToken,
    last: CancellationToken,
) -> impl futures::Stream<Item = proto::NotificationServiceSendManyRequest> + Send + 'static {
    futures::stream::unfold(Some(()), move |first| {
        let (begun, last) = (begun.clone(), last.clone());
        async move {
            if first.is_some() {
                return Some((item("key-1"), None));
            }
            begun.cancel();
            last.cancelled().await;
            None
        }
    })
}
