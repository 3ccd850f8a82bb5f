//! What the doors promise beyond the contracts' examples: under concurrency, and while the server stops. `race` asks the same of a whole server.

use crate::world::World;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;
use std::sync::Arc;

const INITIATE: &str = "/ciam-mfa/v2/deviceAuthentications";

#[tokio::test(flavor = "multi_thread")]
async fn invariant_1_one_right_code_sent_64_times_at_once_is_accepted_once() {
    let world = Arc::new(World::new().await);
    let token = world.token(&world.demo).await;
    // Another person and number each time: the limit on sends is no part of this.
    for round in 0..50 {
        let ask = json!({"userName": format!("user{round}"), "phoneNumber": format!("+9182123{round:05}"), "deviceType": "sms"});
        let opened = world.post(&token, INITIATE, &ask).await;
        assert_eq!(opened.status, StatusCode::CREATED, "{}", opened.body);
        let path = format!("{INITIATE}/{}", opened.json()["authId"].as_str().expect("an id"));
        let otp = world.told.messages().last().expect("a message").1.code.clone();
        let answers: Vec<_> = (0..64)
            .map(|_| {
                let (world, token, path, otp) = (world.clone(), token.clone(), path.clone(), otp.clone());
                tokio::spawn(async move { world.post(&token, &path, &json!({"otp": otp})).await })
            })
            .collect();
        let mut accepted = 0;
        for answer in answers {
            let answer = answer.await.expect("no panic");
            match answer.status {
                StatusCode::OK => accepted += 1,
                _ => assert_eq!(answer.json()["code"], "10007", "{}", answer.body),
            }
        }
        assert_eq!(accepted, 1, "round {round}");
    }
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_goes_on_answering() {
    let world = World::new().await;
    let get = async |path: &str| world.ask(Request::get(path).body(Body::empty()).expect("a request")).await;
    let ready = get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["status"]), (StatusCode::OK, &json!("ready")));
    assert!(ready.json()["engine"].as_str().is_some_and(|it| it.starts_with("SQLite")));
    world.house.readiness.drain();
    assert_eq!(get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get("/healthz").await.status, StatusCode::OK);
    let token = world.token(&world.demo).await;
    let ask = json!({"userName": "jdoe", "phoneNumber": "+91-8212345212", "deviceType": "sms"});
    assert_eq!(world.post(&token, INITIATE, &ask).await.status, StatusCode::CREATED);
}
