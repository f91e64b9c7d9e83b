//! An API server for unit tests: a function from requests to answers.

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A request as the server sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// For example `DELETE`.
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    /// `Null` if there is none.
    pub(super) body: Value,
}

impl Asked {
    /// Method and path without the query, for `match`.
    pub(super) fn line(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// What the server does.
pub(super) enum Answer {
    /// Answers with this status and JSON.
    Json(u16, Value),
    /// One line of JSON each, as a watch gives them; then the body ends.
    Lines(Vec<Value>),
    /// This status with plain text and a `Retry-After` of so many seconds.
    Later(u16, &'static str, u64),
    /// Breaks the connection.
    Broken(&'static str),
    /// Never answers.
    Hangs,
}

/// A failure as API servers word it.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Answer {
    Answer::Json(
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message }),
    )
}

/// A client of a server that answers by this function, and the requests that came so far.
pub(super) fn server(mut answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> (Client, Arc<Mutex<Vec<Asked>>>) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await.unwrap();
            let asked = Asked {
                method: parts.method.to_string(),
                path: parts.uri.to_string(),
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
            };
            log.lock().unwrap().push(asked.clone());
            let respond =
                |response: http::response::Builder, body: String| response.body(Body::from(body.into_bytes())).unwrap();
            match answer(&asked) {
                Answer::Json(code, value) => {
                    send.send_response(respond(Response::builder().status(code), value.to_string()));
                }
                Answer::Lines(values) => {
                    let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
                    send.send_response(respond(Response::builder().status(200), lines));
                }
                Answer::Later(code, text, seconds) => send.send_response(respond(
                    Response::builder().status(code).header("Retry-After", seconds),
                    text.to_owned(),
                )),
                Answer::Broken(words) => send.send_error(words),
                Answer::Hangs => hanging.push(send),
            }
        }
    });
    (Client::new(service, "default"), seen)
}
