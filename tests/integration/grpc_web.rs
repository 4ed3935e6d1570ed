//! A page in a browser calls the services by gRPC-Web when its origin is configured, and
//! cannot when it is not; whoever is no browser is not asked for an origin.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use patient_notify::api::proto;
use prost::Message as _;
use tokio::net::TcpListener;

use crate::front::front_with;
use crate::harness::World;
use crate::inbox_page::rendered;

const PATH: &str = "patientnotify.v1.OperationsService/ListProviders";

/// Calls, and writes down what comes back: names of providers from the first frame, the
/// status from the last one.
const PAGE: &str = r#"<!doctype html><title>board</title><pre id="out">waiting</pre><script>
const out = document.getElementById('out');
fetch('FRONT/PATH', {
  method: 'POST',
  headers: {'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1'},
  body: new Uint8Array(5),
}).then(async answer => {
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const text = new TextDecoder().decode(bytes);
  out.textContent = 'answered ' + answer.status + ' ' + (text.match(/twilio|smtp|fcm/g) || []).join() +
    ' ' + (text.match(/grpc-status: ?\d+/) || ['no status'])[0];
}).catch(error => { out.textContent = 'refused: ' + error.name; });
</script>"#;

/// Serves the page on a port of its own, and gives its origin.
async fn page_of(front: &str) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let page = PAGE.replace("FRONT", front).replace("PATH", PATH);
    let router = Router::new().route("/", get(move || std::future::ready(Html(page.clone()))));
    (origin, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

/// The frames of an answer: whether each has trailers, and its bytes.
fn frames(mut body: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = usize::try_from(u32::from_be_bytes(head[1..5].try_into().unwrap())).unwrap();
        let (content, rest) = rest.split_at(length);
        frames.push((head[0] & 0x80 != 0, content.to_vec()));
        body = rest;
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_calls_when_its_origin_is_configured_and_not_otherwise() {
    let world = World::new().await;
    let front = format!("http://{}", world.config.app.listen);
    let (board, board_server) = page_of(&front).await;
    let (other, other_server) = page_of(&front).await;
    let (mut process, _connection) =
        front_with(&world, &[("PATIENT_NOTIFY_APP__BROWSER_ORIGINS", &board)]).await;
    let (shown, refused) = tokio::join!(rendered(&board), rendered(&other));
    assert!(shown.contains("answered 200 twilio,smtp,fcm grpc-status:"), "{shown}");
    assert!(refused.contains("refused: TypeError"), "{refused}");

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = |path: &str, origin: Option<&str>| {
        let kind = ("content-type", "application/grpc-web+proto");
        let call = client.post(format!("{front}/{path}")).header(kind.0, kind.1).body(vec![0; 5]);
        match origin {
            Some(origin) => call.header("origin", origin),
            None => call,
        }
    };
    let answer = call(PATH, None).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let frames = frames(&answer.bytes().await.unwrap());
    let providers = proto::OperationsServiceListProvidersResponse::decode(frames[0].1.as_slice()).unwrap();
    assert_eq!((frames.len(), providers.providers.len(), frames[1].0), (2, 3, true));
    assert!(String::from_utf8_lossy(&frames[1].1).contains("grpc-status:0"));

    // A fault is in the headers, and a page may read it.
    let fault = call("patientnotify.v1.NotificationService/Get", Some(&board)).send().await.unwrap();
    let header = |name: &str| fault.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("access-control-allow-origin").as_deref(), Some(board.as_str()));
    assert!(header("access-control-expose-headers").unwrap().contains("grpc-status"));
    assert_eq!(header("grpc-status").as_deref(), Some("3"), "{fault:?}");
    assert_eq!(call(PATH, Some(&front)).send().await.unwrap().status().as_u16(), 200, "the front's own page");
    for origin in [other.as_str(), "null", "https://evil.example"] {
        let answer = call(PATH, Some(origin)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 403, "{origin}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
    }
    board_server.abort();
    other_server.abort();
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0));
}
