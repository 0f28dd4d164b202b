//! Holds sr25519 keys, SS58 addresses and Bittensor wallet files.
//!
//! A *hotkey* is an sr25519 key pair; its public half, written as an SS58 address, is the name
//! under which validators and miners know each other. [`Keypair`] signs, [`PublicKey`] verifies
//! and converts to and from addresses. With the feature `wallet`, the module `wallet` reads and
//! writes the key files that Bittensor tools keep under `~/.bittensor/wallets`.
//!
//! ```
//! use lightning_keys::{Keypair, PublicKey};
//!
//! // One side owns the secret and announces only its address.
//! let signer = Keypair::from_seed(&[1; 32]);
//! let address = signer.hotkey();
//! assert_eq!(address, "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH");
//! let signature = signer.sign(b"hello");
//!
//! // The other side knows the address.
//! let public: PublicKey = address.parse()?;
//! assert!(public.verify(b"hello", &signature));
//! assert!(!public.verify(b"goodbye", &signature));
//! # Ok::<(), lightning_keys::KeyError>(())
//! ```

mod error;
mod keypair;
mod phrase;
mod public_key;
mod ss58;
#[cfg(feature = "wallet")]
pub mod wallet;

pub use error::KeyError;
pub use keypair::Keypair;
pub use phrase::generate_phrase;
pub use public_key::PublicKey;
