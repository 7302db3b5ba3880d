//! Workers that come and go, fail and recover: found by DNS, brought in slowly, drained, learned.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use loadtest::upstream::{Pace, Script, Upstream};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::harness::Server;
use crate::remote::{ask, config, gateway, post};

/// A name server for one name, whose addresses the test changes.
struct Names {
    address: SocketAddr,
    addresses: Arc<Mutex<BTreeSet<Ipv4Addr>>>,
}

impl Names {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let addresses = Arc::new(Mutex::new(BTreeSet::new()));
        let known = Arc::clone(&addresses);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let known = known.lock().unwrap().clone();
                let answer = Self::answer(&query, &known).to_vec().unwrap();
                socket.send_to(&answer, client).await.unwrap();
            }
        });
        Self { address, addresses }
    }

    fn answer(query: &Message, known: &BTreeSet<Ipv4Addr>) -> Message {
        let mut answer = query.clone();
        answer.set_message_type(MessageType::Response);
        let question = query.queries()[0].clone();
        if known.is_empty() {
            answer.set_response_code(ResponseCode::NXDomain);
        }
        if question.query_type() == RecordType::A {
            for address in known {
                let data = RData::A((*address).into());
                answer.add_answer(Record::from_rdata(question.name().clone(), 1, data));
            }
        }
        answer
    }

    fn set(&self, last: &[u8]) {
        let all = last.iter().map(|last| Ipv4Addr::new(127, 0, 0, *last));
        *self.addresses.lock().unwrap() = all.collect();
    }
}

async fn at(last: u8, port: u16, script: Script) -> Upstream {
    let address = IpAddr::from([127, 0, 0, last]);
    Upstream::start_at(script, (address, port).into(), true)
        .await
        .unwrap()
}

/// What the administrators' view says of the workers of a model.
async fn workers(server: &Server, key: &str) -> Vec<(String, String, u64)> {
    let url = format!("{}/v1/organization/queue", server.url);
    let view: Value = server
        .client
        .get(url)
        .bearer_auth(key)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let workers = view["data"][0]["workers"].as_array().unwrap();
    workers
        .iter()
        .map(|worker| {
            let word = |name: &str| worker[name].as_str().unwrap().to_owned();
            (
                word("name"),
                word("state"),
                worker["places"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn admin(server: &Server) -> String {
    server.cli(&["key", "create", "--admin"]).trim().to_owned()
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("after ten seconds: not {what}");
}

fn slow(words: usize) -> Script {
    Script::words(words).at(Pace::Steady {
        first: Duration::from_millis(20),
        gap: Duration::from_millis(20),
    })
}

#[tokio::test]
async fn workers_are_found_by_dns_as_its_answers_change() {
    let names = Names::start().await;
    let first = at(1, 0, slow(4)).await;
    let port = first.address().port();
    let second = at(2, port, slow(4)).await;
    let third = at(3, port, slow(4)).await;
    names.set(&[1, 2]);
    let text = format!(
        "[tenancy]\nbootstrap_key = \"fb-local\"\n[scheduler]\nslow_start_ms = 1\n[[worker]]\nname = \"gpu\"\n\
         engine = \"remote\"\nurl = \"http://workers.test:{port}\"\nmodels = [\"big\"]\ndiscover = \"dns\"\n\
         discover_ms = 100\ndns = \"{}\"\nprobe_ms = 100\nslots = 4\n",
        names.address
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    let server = Server::start_on(file.path().to_owned(), &[]).await;
    let key = admin(&server);
    let known = async || {
        workers(&server, &key)
            .await
            .into_iter()
            .map(|worker| worker.0)
            .collect::<BTreeSet<_>>()
    };
    let named = |last: &[u8]| {
        last.iter()
            .map(|last| format!("gpu@127.0.0.{last}"))
            .collect::<BTreeSet<_>>()
    };
    wait_until("both are known", async || known().await == named(&[1, 2])).await;
    for number in 0..6 {
        let said = |who: &str| json!([{"role": "user", "content": format!("{who} {number}")}]);
        let body = |who: &str| json!({"model": "big", "messages": said(who)});
        let (ann, ben) = (body("ann"), body("ben"));
        let (one, other) = tokio::join!(post(&server, &ann), post(&server, &ben));
        assert_eq!((one.0, other.0), (200, 200));
    }
    assert!(first.started() > 0 && second.started() > 0 && third.started() == 0);
    // The host's name stays the one that was asked for.
    let headers = second.seen().remove(0).headers;
    assert!(
        headers.contains(&("host".into(), format!("workers.test:{port}"))),
        "{headers:?}"
    );
    names.set(&[3]);
    wait_until("the third alone is known", async || {
        known().await == named(&[3])
    })
    .await;
    let before = (first.started(), second.started());
    for _ in 0..4 {
        assert_eq!(post(&server, &ask()).await.0, 200);
    }
    assert_eq!((first.started(), second.started()), before);
    assert_eq!(third.started(), 4);
    names.set(&[]);
    wait_until("nobody is known", async || known().await.is_empty()).await;
    assert_eq!(post(&server, &ask()).await.0, 503);
}

#[tokio::test]
async fn a_worker_that_leaves_is_drained() {
    let names = Names::start().await;
    let first = at(1, 0, slow(60)).await;
    let port = first.address().port();
    let second = at(2, port, slow(4)).await;
    names.set(&[1]);
    let text = format!(
        "[tenancy]\nbootstrap_key = \"fb-local\"\n[[worker]]\nname = \"gpu\"\nengine = \"remote\"\n\
         url = \"http://workers.test:{port}\"\nmodels = [\"big\"]\ndiscover = \"dns\"\ndiscover_ms = 100\n\
         dns = \"{}\"\nprobe_ms = 100\nslots = 4\n",
        names.address
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    let server = Server::start_on(file.path().to_owned(), &[]).await;
    let key = admin(&server);
    let body = ask();
    let long = post(&server, &body);
    let then = async {
        wait_until("it runs", async || first.running() == 1).await;
        names.set(&[2]);
        wait_until("it drains", async || {
            workers(&server, &key)
                .await
                .iter()
                .any(|worker| worker.1 == "draining")
        })
        .await;
        wait_until("the other one serves", async || {
            post(&server, &ask()).await.0 == 200
        })
        .await;
        assert_eq!((first.started(), second.started() > 0), (1, true));
    };
    let (answer, ()) = tokio::join!(long, then);
    // What it ran came to its end.
    assert_eq!(answer.0, 200);
    assert_eq!(first.ended(), 1);
    wait_until("it is gone", async || {
        workers(&server, &key).await.len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_joins_is_started_slowly() {
    let names = Names::start().await;
    let first = at(1, 0, slow(10)).await;
    let port = first.address().port();
    names.set(&[1]);
    let text = format!(
        "[tenancy]\nbootstrap_key = \"fb-local\"\n[scheduler]\nslow_start_ms = 4000\nmax_queue_per_project = 500\n\
         [[worker]]\nname = \"gpu\"\nengine = \"remote\"\nurl = \"http://workers.test:{port}\"\nmodels = [\"big\"]\n\
         discover = \"dns\"\ndiscover_ms = 100\ndns = \"{}\"\nprobe_ms = 100\nslots = 20\n",
        names.address
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    let server = Server::start_on(file.path().to_owned(), &[]).await;
    let key = admin(&server);
    let places = async || workers(&server, &key).await[0].2;
    let at_first = places().await;
    assert!(at_first < 12, "{at_first} of 20 at once");
    // More than that come, and no more than its places run.
    let body = ask();
    let all = futures_util::future::join_all((0..20).map(|_| post(&server, &body))).await;
    assert!(all.iter().all(|answer| answer.0 == 200));
    assert!(first.most_running() < 20, "{}", first.most_running());
    wait_until("it has all of its places", async || places().await == 20).await;
}

#[tokio::test]
async fn what_a_worker_takes_is_learned() {
    let mut script = Script::words(3).at(Pace::Steady {
        first: Duration::from_millis(15),
        gap: Duration::from_millis(5),
    });
    script.most = Some(12);
    let upstream = Upstream::start(script, 0).await.unwrap();
    let server = gateway(
        &[&upstream],
        "",
        "[scheduler]\nmax_queue_per_project = 500\nretries = 20\n",
    )
    .await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(8);
    let body = ask();
    let clients = (0..30).map(|_| async {
        let mut refused = 0;
        while tokio::time::Instant::now() < deadline {
            refused += u32::from(post(&server, &body).await.0 != 200);
        }
        refused
    });
    let refused: u32 = futures_util::future::join_all(clients).await.iter().sum();
    let places = server.metric("forebay_worker_places{worker=\"w0\"}").await;
    assert!(
        (6.0..=14.0).contains(&places),
        "it takes 12, and {places} were learned"
    );
    assert_eq!(
        refused, 0,
        "clients were told of what the gateway had to learn"
    );
}

#[tokio::test]
async fn a_prefix_goes_where_it_went_before() {
    let (one, other) = (
        Upstream::start(slow(3), 0).await.unwrap(),
        Upstream::start(slow(3), 0).await.unwrap(),
    );
    let server = Server::start_on(config(&[&one, &other], "slots = 8", ""), &[]).await;
    let talk = |name: &str, turns: usize| {
        let turn = |number| json!({"role": "user", "content": format!("{name} {number} {}", "x".repeat(600))});
        json!({"model": "big", "messages": (0..turns).map(turn).collect::<Vec<_>>()})
    };
    let names = ["ann", "ben", "eve", "joe"];
    let mut served = Vec::new();
    for turns in 1..6 {
        let asked = names.into_iter().map(async |name| {
            let body = talk(name, turns);
            let answer = server
                .post("/v1/chat/completions", &body)
                .send()
                .await
                .unwrap();
            let worker = answer.headers()["x-forebay-served-by"]
                .to_str()
                .unwrap()
                .to_owned();
            answer.bytes().await.unwrap();
            (name, worker)
        });
        served.extend(futures_util::future::join_all(asked).await);
    }
    let of = |name| {
        served
            .iter()
            .filter(move |served| served.0 == name)
            .map(|served| &served.1)
    };
    for name in names {
        assert_eq!(
            of(name).collect::<BTreeSet<_>>().len(),
            1,
            "{name} moved: {served:?}"
        );
    }
    let all: BTreeSet<_> = served.iter().map(|served| &served.1).collect();
    assert_eq!(all.len(), 2, "one did it all");
}
