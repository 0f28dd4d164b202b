//! Structs in place of maps: typed handlers and typed calls.
//!
//! ```sh
//! cargo run -p btlightning --example typed_handlers
//! ```

use btlightning::{
    CallErrorKind, CallOptions, LightningClient, LightningServer, QuicAxonInfo, QuicRequest,
    Sr25519Signer, typed_async_handler, typed_handler,
};
use serde::{Deserialize, Serialize};

/// What validators ask. On the wire it is a map keyed by field name, so that miners in other
/// languages, and miners that know fewer fields, can read it.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    prompt: String,
    max_words: Option<usize>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    words: Vec<String>,
    cut_short: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let miner = Sr25519Signer::from_seed([1; 32]);
    let mut server = LightningServer::new(miner.hotkey(), "127.0.0.1".into(), 0)?;
    server.set_miner_signer(Box::new(miner));

    // A plain closure runs on a thread that may block …
    let blocking = typed_handler(|question: Question| answer(&question));
    server
        .register_synapse_handler("blocking".into(), blocking)
        .await?;
    // … an async one on the runtime, where it must not block.
    let asynchronous = typed_async_handler(|question: Question| async move {
        tokio::task::yield_now().await;
        answer(&question)
    });
    server
        .register_async_synapse_handler("asynchronous".into(), asynchronous)
        .await?;

    server.start().await?;
    let (hotkey, addr) = (server.hotkey().to_owned(), server.local_addr()?);
    let axon = QuicAxonInfo::new(hotkey, addr.ip().to_string(), addr.port(), 4);
    tokio::spawn(async move { server.serve_forever().await });

    let validator = Sr25519Signer::from_seed([2; 32]);
    let mut client = LightningClient::new(validator.hotkey());
    client.set_signer(Box::new(validator));
    client.initialize_connections(vec![axon.clone()]).await?;

    let question = Question {
        prompt: "to be or not to be".into(),
        max_words: Some(2),
    };
    let expected = Answer {
        words: vec!["to".into(), "be".into()],
        cut_short: true,
    };

    // `call` encodes straight to the bytes on the wire and decodes straight from them.
    for kind in ["blocking", "asynchronous"] {
        let answer: Answer = client
            .call(&axon, kind, &question, CallOptions::default())
            .await?;
        println!("{kind}: {answer:?}");
        assert_eq!(answer, expected);
    }

    // The same with the map of dynamic values in between, as older code does it.
    let request = QuicRequest::from_typed("blocking", &question)?;
    assert_eq!(request.data["max_words"].as_u64(), Some(2));
    let response = client
        .query_axon(axon.clone(), request)
        .await?
        .into_result()?;
    assert_eq!(response.deserialize_data::<Answer>()?, expected);

    // An error of the handler is logged by the miner; the validator learns only that there was
    // one. It also learns whether the handler has run: here it has, so a retry may repeat its work.
    let empty = Question {
        prompt: String::new(),
        max_words: None,
    };
    let answer = client
        .call::<_, Answer>(&axon, "blocking", &empty, CallOptions::default())
        .await;
    let Err(error) = answer else {
        anyhow::bail!("answered an empty prompt");
    };
    println!("validator: {error}");
    assert!(matches!(error.kind(), CallErrorKind::Remote(_)));
    assert!(!error.is_retry_safe());
    Ok(())
}

fn answer(question: &Question) -> Result<Answer, String> {
    let words: Vec<String> = question.prompt.split_whitespace().map(Into::into).collect();
    if words.is_empty() {
        return Err("the prompt is empty".into());
    }
    let wanted = question.max_words.unwrap_or(usize::MAX);
    Ok(Answer {
        cut_short: words.len() > wanted,
        words: words.into_iter().take(wanted).collect(),
    })
}
