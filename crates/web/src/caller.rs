//! Callers: on whose behalf something is asked.
//!
//! Owns access tokens: JWTs (RFC 7519) signed with the tenant's own key (ES256, RFC 7518 §3.4), which clients treat as opaque. A
//! token that this node issued or has verified is remembered by its hash, so that the hot path pays for no signature; whether the
//! client may still ask is looked at every time.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::verbs::standing::Standing;
use countersign_core::words::id::{ClientId, TenantId};
use countersign_core::words::refusal::{Error, Fault};
use countersign_core::words::secret::{Sealed, Secret};
use countersign_core::{Core, Scope};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use url::Url;

/// How long an access token lives, in seconds (CIAM contract §2).
pub(crate) const LIFETIME_S: i64 = 7199;

/// Tokens that are remembered. The clients that exist take a new one for every call (CIAM contract §2), so most are used within
/// milliseconds of being issued; a forgotten one costs one look at its signature.
const REMEMBERED: usize = 16_384;
/// Signing keys that are kept ready: as many as tenants that are active at a time.
const SIGNERS: usize = 4_096;
/// No token of ours is longer; client ids have at most 128 bytes, the base URL is the operator's.
const LONGEST: usize = 4_096;

/// Why a token does not let its bearer in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// It was ours, and its time is over.
    #[error("the access token has expired")]
    Expired,
    /// It is not ours, or its client is gone or switched off.
    #[error("the access token is not valid")]
    Invalid,
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Issues access tokens, and recognises them.
pub(crate) struct Tokens {
    issuer: String,
    signers: Cache<TenantId, Arc<Signer>>,
    remembered: Cache<[u8; 32], Bearer>,
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bearer {
    tenant: TenantId,
    client: ClientId,
    /// The first second at which it is no longer taken (`exp`).
    expires_at_s: i64,
}

/// A tenant's key pair, ready to sign.
struct Signer {
    /// The sealed form that it was made of: when the tenant has another one, this is out of date.
    sealed: Sealed,
    pair: EcdsaKeyPair,
    kid: String,
    /// The encoded header of every token that it signs.
    header: String,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

#[derive(Deserialize)]
struct SeenHeader {
    alg: String,
    kid: String,
    /// Extensions that must be understood (RFC 7515 §4.1.11). We understand none.
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize)]
struct Claims<'a> {
    scope: &'static str,
    authorization_details: [(); 0],
    client_id: &'a str,
    iss: &'a str,
    iat: i64,
    exp: i64,
    tnt: TenantId,
    cli: ClientId,
}

#[derive(Deserialize)]
struct SeenClaims {
    iss: String,
    exp: i64,
    tnt: TenantId,
    cli: ClientId,
}

impl Tokens {
    pub fn new(base_url: &Url) -> Self {
        let issuer = base_url.as_str().trim_end_matches('/').to_owned();
        Self { issuer, signers: Cache::new(SIGNERS), remembered: Cache::new(REMEMBERED) }
    }

    /// A new access token for the client of `scope`.
    ///
    /// The signature draws its own randomness: it is the one value whose quality must not hang on a port.
    pub fn issue(&self, core: &Core, scope: &Scope) -> Result<Secret, Fault> {
        let signer = self.signer(core, &scope.tenant)?;
        let now_s = core.now().as_secs();
        let client = scope.client.as_ref().ok_or_else(|| Fault::Corrupt("access tokens are for clients".into()))?;
        let bearer = Bearer { tenant: scope.tenant.tenant.id, client: client.id, expires_at_s: now_s + LIFETIME_S };
        let claims = Claims {
            scope: "",
            authorization_details: [],
            client_id: &client.client_id,
            iss: &self.issuer,
            iat: now_s,
            exp: bearer.expires_at_s,
            tnt: bearer.tenant,
            cli: bearer.client,
        };
        let token = signer.sign(&claims)?;
        self.remembered.insert(hash(&token), bearer);
        Ok(Secret::new(token))
    }

    /// On whose behalf the bearer of `token` asks.
    pub async fn admit(&self, core: &Core, token: &str) -> Result<Scope, NotAdmitted> {
        if token.len() > LONGEST {
            return Err(NotAdmitted::Invalid);
        }
        let hash = hash(token);
        let bearer = match self.remembered.get(&hash) {
            Some(bearer) => bearer,
            None => {
                let bearer = self.read(core, token).await?;
                self.remembered.insert(hash, bearer);
                bearer
            }
        };
        if core.now().as_secs() >= bearer.expires_at_s {
            return Err(NotAdmitted::Expired);
        }
        core.scope(bearer.tenant, bearer.client).await.map_err(|no| match no {
            Error::Refused(_) => NotAdmitted::Invalid,
            Error::Fault(fault) => fault.into(),
        })
    }

    /// What `token` says, once its signature has been found right.
    async fn read(&self, core: &Core, token: &str) -> Result<Bearer, NotAdmitted> {
        let parts = Parts::split(token).ok_or(NotAdmitted::Invalid)?;
        // Until the signature is checked, the claims only say whose key to check it with.
        let claimed: SeenClaims = parts.claims().ok_or(NotAdmitted::Invalid)?;
        let standing = core.standing(claimed.tnt).await?.ok_or(NotAdmitted::Invalid)?;
        let signer = self.signer(core, &standing)?;
        if claimed.iss == self.issuer && signer.signed(&parts) {
            Ok(Bearer { tenant: claimed.tnt, client: claimed.cli, expires_at_s: claimed.exp })
        } else {
            Err(NotAdmitted::Invalid)
        }
    }

    fn signer(&self, core: &Core, standing: &Standing) -> Result<Arc<Signer>, Fault> {
        let (id, sealed) = (standing.tenant.id, &standing.tenant.signing_key);
        if let Some(signer) = self.signers.get(&id)
            && signer.sealed == *sealed
        {
            return Ok(signer);
        }
        let signer = Arc::new(Signer::open(sealed.clone(), &core.signing_key(standing)?)?);
        self.signers.insert(id, signer.clone());
        Ok(signer)
    }
}

impl Signer {
    fn open(sealed: Sealed, pkcs8: &[u8]) -> Result<Self, Fault> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| Fault::Corrupt("a tenant's signing key is no P-256 key in PKCS#8".into()))?;
        let kid = thumbprint(pair.public_key().as_ref());
        let header = encode(&Header { alg: "ES256", typ: "JWT", kid: &kid })?;
        Ok(Self { sealed, pair, kid, header })
    }

    /// The compact form (RFC 7515 §7.1).
    fn sign(&self, claims: &Claims<'_>) -> Result<String, Fault> {
        let mut token = format!("{}.{}", self.header, encode(claims)?);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes());
        let signature = signature.map_err(|_| Fault::Corrupt("a tenant's signing key does not sign".into()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Whether this key has signed them. The algorithm is ours to choose, never the token's (RFC 8725 §3.1).
    fn signed(&self, parts: &Parts<'_>) -> bool {
        let Some(header) = decode::<SeenHeader>(parts.header) else { return false };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(parts.signature) else { return false };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        header.alg == "ES256" && header.crit.is_none() && header.kid == self.kid && key.verify(parts.signed.as_bytes(), &signature).is_ok()
    }
}

/// The three parts of a compact token, as they came.
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Header, dot and claims.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        (!claims.contains('.')).then_some(Self { header, claims, signature, signed })
    }

    fn claims<T: for<'de> Deserialize<'de>>(&self) -> Option<T> {
        decode(self.claims)
    }
}

fn encode(part: &impl Serialize) -> Result<String, Fault> {
    let json = serde_json::to_vec(part).map_err(|_| Fault::Corrupt("a token does not become JSON".into()))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The name of a P-256 key (RFC 7638), given as an uncompressed point: `04`, x, y.
fn thumbprint(point: &[u8]) -> String {
    let (x, y) = point[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestHouse, new_client};
    use countersign_core::nouns::tenant::Policy;
    use countersign_core::verbs::manage::ClientChange;
    use std::time::Duration;

    /// Another node: the same house, and nothing remembered.
    fn node() -> Tokens {
        Tokens::new(&"https://mfa.example.com".parse().expect("a URL"))
    }

    fn invalid(what: Result<Scope, NotAdmitted>) -> bool {
        matches!(what, Err(NotAdmitted::Invalid))
    }

    #[tokio::test]
    async fn a_token_lets_its_client_in_at_every_node_until_it_expires() {
        let house = TestHouse::new().await;
        let (issued_at, other) = (node(), node());
        let token = issued_at.issue(&house.core, &house.scope().await).expect("issued");
        for tokens in [&issued_at, &other, &other] {
            let scope = tokens.admit(&house.core, token.reveal()).await.expect("let in");
            assert_eq!(scope.client.expect("a client").client_id, house.client_id);
        }
        house.clock.pass(Duration::from_secs(7198));
        assert!(other.admit(&house.core, token.reveal()).await.is_ok());
        house.clock.pass(Duration::from_secs(1));
        for tokens in [&issued_at, &node()] {
            assert!(matches!(tokens.admit(&house.core, token.reveal()).await, Err(NotAdmitted::Expired)));
        }
    }

    #[tokio::test]
    async fn a_token_holds_the_claims_of_the_contract() {
        let house = TestHouse::new().await;
        let token = node().issue(&house.core, &house.scope().await).expect("issued");
        let parts = Parts::split(token.reveal()).expect("three parts");
        let header: serde_json::Value = decode(parts.header).expect("JSON");
        assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("ES256"), Some("JWT")));
        assert_eq!(header["kid"].as_str().map(str::len), Some(43));
        let claims: serde_json::Value = parts.claims().expect("JSON");
        assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(1_893_499_200), Some(1_893_506_399)));
        assert_eq!((claims["scope"].as_str(), claims["authorization_details"].as_array().map(Vec::len)), (Some(""), Some(0)));
        assert_eq!((claims["client_id"].as_str(), claims["iss"].as_str()), (Some(&*house.client_id), Some("https://mfa.example.com")));
    }

    #[tokio::test]
    async fn no_part_of_a_token_can_be_another() {
        let house = TestHouse::new().await;
        let token = node().issue(&house.core, &house.scope().await).expect("issued").reveal().to_owned();
        let Parts { header, claims, signature, .. } = Parts::split(&token).expect("three parts");
        let recode = |part: &str, from: &str, to: &str| {
            let json = String::from_utf8(URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("text");
            assert!(json.contains(from), "{json}");
            URL_SAFE_NO_PAD.encode(json.replace(from, to))
        };
        let of_claims = |from, to| format!("{header}.{}.{signature}", recode(claims, from, to));
        let of_header = |from, to| format!("{}.{claims}.{signature}", recode(header, from, to));
        let mut flipped = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        flipped[40] ^= 1;
        for (what, forged) in [
            ("a later end", of_claims("1893506399", "1993506399")),
            ("another issuer", of_claims("mfa.example.com", "mfa.example.org")),
            ("no algorithm", of_header("ES256", "none")),
            ("a keyed hash", of_header("ES256", "HS256")),
            ("an extension", of_header("\"typ\"", "\"crit\":[\"x\"],\"typ\"")),
            ("no signature", format!("{header}.{claims}.")),
            ("two parts", format!("{header}.{claims}")),
            ("four parts", format!("{token}.{signature}")),
            ("another signature", format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(flipped))),
            ("a padded signature", format!("{token}==")),
            ("nothing", String::new()),
            ("too much", "a.".repeat(3000)),
        ] {
            assert!(invalid(node().admit(&house.core, &forged).await), "{what}");
        }
        assert!(node().admit(&house.core, &token).await.is_ok(), "the token itself is right");
    }

    #[tokio::test]
    async fn the_key_of_one_tenant_signs_for_no_other() {
        let house = TestHouse::new().await;
        let other = house.core.create_tenant("other", "Other", Policy::default()).await.expect("made").id;
        let tokens = node();
        let mine = house.scope().await;
        let theirs = house.core.standing(other).await.expect("read").expect("there");
        // Claims that name the other tenant, signed with the key of this one.
        let claims = Claims {
            scope: "",
            authorization_details: [],
            client_id: "x",
            iss: &tokens.issuer,
            iat: 0,
            exp: i64::MAX,
            tnt: other,
            cli: mine.client.as_ref().expect("a client").id,
        };
        let forged = tokens.signer(&house.core, &mine.tenant).expect("opens").sign(&claims).expect("signs");
        assert!(invalid(tokens.admit(&house.core, &forged).await));
        // Their own key makes a token that is right, and its client is unknown there: unknown, not forbidden (invariant 6).
        let signed = tokens.signer(&house.core, &theirs).expect("opens").sign(&claims).expect("signs");
        assert!(invalid(tokens.admit(&house.core, &signed).await));
    }

    #[tokio::test]
    async fn a_client_that_is_switched_off_is_out_at_once() {
        let house = TestHouse::new().await;
        let (client, secret) = house.core.create_client(house.tenant, new_client("second")).await.expect("made");
        let scope = house.core.authenticate(&client.client_id, &secret).await.expect("its own secret");
        let tokens = node();
        let token = tokens.issue(&house.core, &scope).expect("issued");
        assert!(tokens.admit(&house.core, token.reveal()).await.is_ok());
        let off = ClientChange { disabled: Some(true), ..ClientChange::default() };
        house.core.change_client(house.tenant, &client.client_id, off).await.expect("changed");
        assert!(invalid(tokens.admit(&house.core, token.reveal()).await));
    }

    #[test]
    fn a_key_is_named_as_rfc_7638_does_it() {
        // Worked out by another implementation: sha256 of the canonical JWK of the point 4,1,1,…,2,2,….
        let point = [&[4][..], &[1; 32], &[2; 32]].concat();
        assert_eq!(thumbprint(&point), "kOFKxjJdOqJD5G4Yuw-cxHe64VGyxKEO_hoV83QfGj0");
    }
}
