//! Who makes a call, and whether a key of that kind may make it.

use std::future::ready;
use std::ops::Deref;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use futures_util::future::LocalBoxFuture;

use crate::admission::Admission;
use crate::auth::api_key::KeyKind;
use crate::auth::caller::Caller;
use crate::auth::keyring::Keyring;
use crate::error::Error;
use crate::http::error::ApiError;
use crate::http::peer;
use crate::id::{AgentId, RequestId};
use crate::rate_limit::{Class, Permit};
use crate::store::audit_log::By;

/// A key that was found, for a chat; what it may do is not yet decided.
pub struct Authenticated(Arc<Caller>);

impl FromRequest for Authenticated {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // Before anything is looked up: refusing must stay cheap.
        if let Some(Err(full)) = request.app_data::<web::Data<Admission>>().map(|door| door.knock()) {
            return Box::pin(ready(Err(full.into())));
        }
        let request = request.clone();
        Box::pin(async move { authenticate(&request).await.map(Self).map_err(ApiError::from) })
    }
}

async fn authenticate(request: &HttpRequest) -> Result<Arc<Caller>, Error> {
    let Some(keyring) = request.app_data::<web::Data<Keyring>>() else {
        return Err(Error::Internal("no keyring".to_owned()));
    };
    let from = peer::client(request);
    keyring.find(bearer(request.headers()), from).await
}

/// The key that a request shows.
pub fn bearer(headers: &HeaderMap) -> &str {
    let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match sent.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => "",
    }
}

impl Authenticated {
    /// Lets a turn in.
    ///
    /// # Errors
    /// When the key is not for chat, or the door is closed to it.
    pub async fn chat(self, request: &HttpRequest) -> Result<(Arc<Caller>, Permit), Error> {
        if self.0.kind == KeyKind::Operator {
            return Err(Error::KeyScope(
                "the operator's token is never for chat; use an agent key or an account key",
            ));
        }
        if !self.0.scopes.chat {
            return Err(Error::KeyScope("it was made without the scope `chat`"));
        }
        let permit = enter(request, &self.0, Class::Chat).await?;
        Ok((self.0, permit))
    }
}

async fn enter(request: &HttpRequest, caller: &Arc<Caller>, class: Class) -> Result<Permit, Error> {
    let Some(admission) = request.app_data::<web::Data<Admission>>() else {
        return Err(Error::Internal("no admission".to_owned()));
    };
    let (permit, status) = admission.admit(caller, class);
    request.extensions_mut().insert(status);
    permit
}

/// Who asks, for the audit log.
fn by(request: &HttpRequest, caller: &Caller) -> By {
    By {
        key: Some((caller.kind, caller.key.to_string())),
        request: request.extensions().get::<RequestId>().map(ToString::to_string),
        address: peer::client(request).map(|address| address.to_string()),
    }
}

macro_rules! extractors {
    ($($(#[$doc:meta])* $name:ident: $allowed:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name {
            caller: Arc<Caller>,
            by: By,
        }

        impl FromRequest for $name {
            type Error = ApiError;
            type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                let request = request.clone();
                Box::pin(async move {
                    let caller = authenticate(&request).await?;
                    let allowed: fn(&Caller) -> Result<(), Error> = $allowed;
                    allowed(&caller)?;
                    enter(&request, &caller, Class::Management).await?;
                    Ok(Self { by: by(&request, &caller), caller })
                })
            }
        }

        impl $name {
            /// Who asks, for the audit log.
            #[allow(dead_code, reason = "not all of them change anything")]
            pub fn by(&self) -> By {
                self.by.clone()
            }
        }

        impl Deref for $name {
            type Target = Caller;

            fn deref(&self) -> &Caller {
                &self.caller
            }
        }
    )*};
}

extractors! {
    /// An account key that may manage its account.
    Tenant: |caller| match caller.kind {
        KeyKind::Account if caller.scopes.manage => Ok(()),
        KeyKind::Account => Err(Error::KeyScope("it was made with narrower scopes")),
        _ => Err(Error::KeyScope("managing an account takes an account key")),
    };
    /// A key that may see what things cost.
    MoneyReader: |caller| match caller.kind {
        KeyKind::Account if caller.scopes.usage_read => Ok(()),
        KeyKind::Account => Err(Error::KeyScope("it was made without the scope `usage:read`")),
        _ => Err(Error::KeyScope("the account's money takes an account key")),
    };
    /// A key that may read sessions: the account's, or those of its own agent.
    SessionReader: |caller| match caller.kind {
        KeyKind::Account | KeyKind::Agent if caller.scopes.sessions_read => Ok(()),
        KeyKind::Operator => Err(Error::KeyScope("sessions take an account key")),
        _ => Err(Error::KeyScope("it was made without the scope `sessions:read`")),
    };
    /// A key that may chat, asking for what a turn has said already.
    Listener: |caller| match caller.kind {
        KeyKind::Operator => Err(Error::KeyScope("the operator's token is never for `/v1`")),
        _ if caller.scopes.chat => Ok(()),
        _ => Err(Error::KeyScope("it was made without the scope `chat`")),
    };
    /// A key that may chat, asking what there is to chat with.
    ModelReader: |caller| match caller.kind {
        KeyKind::Operator => Err(Error::KeyScope("the operator's token is never for `/v1`")),
        _ => Ok(()),
    };
    /// The operator.
    Operator: |caller| match caller.kind {
        KeyKind::Operator => Ok(()),
        _ => Err(Error::KeyScope("this takes the operator's token")),
    };
}

/// The agent that a chat is with: the one the request names, else the key's own.
///
/// # Errors
/// [`Error::ModelNotFound`] for an agent that the key may not see, [`Error::Invalid`] if none is named.
pub fn named_agent(caller: &Caller, named: Option<String>) -> Result<AgentId, Error> {
    match (named, &caller.agent) {
        (Some(named), Some(own)) if named != own.as_str() => Err(Error::ModelNotFound(named)),
        (_, Some(own)) => Ok(own.clone()),
        (Some(named), None) => Ok(named.into()),
        (None, None) => Err(crate::error::Invalid::missing("model").into()),
    }
}
