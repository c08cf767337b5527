//! A route together with its description: what `/openapi.json` says of a call stands where the call is declared.

use actix_web::http::{Method, StatusCode};
use actix_web::{FromRequest, Handler, Responder, Route, web};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

/// Writes the schema of one type.
pub type Describe = fn(&mut SchemaGenerator) -> Schema;

/// Which keys a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// An agent key or an account key.
    AgentOrAccount,
    /// An account key.
    Account,
    /// The operator's token.
    Operator,
}

/// Something that stands in the query or in a header.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Whether it is a header; else it stands in the query.
    pub header: bool,
    /// What it is for.
    pub about: &'static str,
    /// Its schema.
    pub schema: Value,
}

/// A parameter of the query.
pub fn query(name: &'static str, about: &'static str, schema: Value) -> Parameter {
    Parameter { name, header: false, about, schema }
}

/// A header.
pub fn header(name: &'static str, about: &'static str, schema: Value) -> Parameter {
    Parameter { name, header: true, about, schema }
}

/// What an answer's body is.
#[derive(Clone, Debug)]
pub enum Content {
    /// JSON of that type, with an example where there is one.
    Json(Describe, Option<Value>),
    /// Text of another type, such as `text/csv`, with an example.
    Text(&'static str, &'static str),
}

/// An answer that is no error.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What it means.
    pub about: &'static str,
    /// Its body, in each of the forms that it may have.
    pub contents: Vec<Content>,
    /// Headers that it may have beside those of every answer.
    pub headers: &'static [&'static str],
}

/// A call of the API.
pub struct Endpoint {
    /// How.
    pub method: Method,
    /// Where, as actix-web matches it.
    pub path: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// More about it.
    pub about: &'static str,
    /// Which keys it takes.
    pub keys: Keys,
    /// What may stand in its query and its headers.
    pub parameters: Vec<Parameter>,
    /// The body that it takes, with an example.
    pub body: Option<(Describe, Value)>,
    /// Fields that the body has to have, where its type does not say so.
    pub required: &'static [&'static str],
    /// What it answers.
    pub answers: Vec<Answer>,
    /// Errors of its own, beside those that follow from the rest.
    pub errors: Vec<u16>,
    /// What runs it.
    pub route: Route,
}

macro_rules! methods {
    ($($name:ident: $method:ident;)*) => {$(
        #[doc = concat!("A call by ", stringify!($method), ".")]
        pub fn $name<F, Args>(path: &'static str, handler: F, summary: &'static str) -> Endpoint
        where
            F: Handler<Args>,
            Args: FromRequest + 'static,
            F::Output: Responder + 'static,
        {
            Endpoint::new(Method::$method, path, web::$name().to(handler), summary)
        }
    )*};
}

methods! {
    get: GET;
    post: POST;
    put: PUT;
    patch: PATCH;
    delete: DELETE;
}

impl Endpoint {
    fn new(method: Method, path: &'static str, route: Route, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            about: "",
            keys: Keys::None,
            parameters: Vec::new(),
            body: None,
            required: &[],
            answers: Vec::new(),
            errors: Vec::new(),
            route,
        }
    }

    /// The path without the patterns of its parts: `/v1/models/{id}`.
    pub fn template(&self) -> String {
        let mut path = String::with_capacity(self.path.len());
        for part in self.path.split_inclusive('}') {
            match part.split_once(':') {
                Some((before, _)) => {
                    path.push_str(before);
                    path.push('}');
                }
                None => path.push_str(part),
            }
        }
        path
    }

    /// The names of the parts of the path that vary.
    pub fn path_names(&self) -> Vec<String> {
        let template = self.template();
        let names = template.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// More about it.
    pub fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// Which keys it takes.
    pub fn by(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// What may stand in its query and its headers.
    pub fn with(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// The body that it takes.
    pub fn takes<T: JsonSchema>(mut self, example: Value) -> Self {
        self.body = Some((|generator| generator.subschema_for::<T>(), example));
        self
    }

    /// Fields that the body has to have, where its type does not say so.
    pub fn requires(mut self, fields: &'static [&'static str]) -> Self {
        self.required = fields;
        self
    }

    /// An answer of JSON.
    pub fn answers<T: JsonSchema>(mut self, status: StatusCode, about: &'static str) -> Self {
        let contents = vec![Content::Json(|generator| generator.subschema_for::<T>(), None)];
        self.answers.push(Answer { status, about, contents, headers: &[] });
        self
    }

    /// An example of the last answer.
    pub fn example(mut self, value: Value) -> Self {
        if let Some(Content::Json(_, example)) =
            self.answers.last_mut().and_then(|answer| answer.contents.first_mut())
        {
            *example = Some(value);
        }
        self
    }

    /// An answer of text; also as another form of one with that status.
    pub fn text(
        mut self,
        status: StatusCode,
        about: &'static str,
        kind: &'static str,
        example: &'static str,
    ) -> Self {
        let content = Content::Text(kind, example);
        match self.answers.iter_mut().find(|answer| answer.status == status) {
            Some(answer) => answer.contents.push(content),
            None => self.answers.push(Answer { status, about, contents: vec![content], headers: &[] }),
        }
        self
    }

    /// An answer without a body.
    pub fn nothing(mut self, status: StatusCode, about: &'static str) -> Self {
        self.answers.push(Answer { status, about, contents: Vec::new(), headers: &[] });
        self
    }

    /// Headers that its answers may have.
    pub fn tells(mut self, headers: &'static [&'static str]) -> Self {
        self.answers.iter_mut().for_each(|answer| answer.headers = headers);
        self
    }

    /// Errors of its own, beside those that follow from what it takes.
    pub fn fails(mut self, statuses: &[u16]) -> Self {
        self.errors.extend(statuses);
        self
    }

    /// Every error that it may answer.
    pub fn all_errors(&self) -> Vec<u16> {
        let mut errors = self.errors.clone();
        if self.keys != Keys::None {
            errors.extend([401, 403, 500, 503]);
        }
        if matches!(self.keys, Keys::AgentOrAccount | Keys::Account) {
            errors.push(429);
        }
        if self.body.is_some() {
            errors.extend([400, 408, 413, 415]);
        }
        if self.parameters.iter().any(|parameter| !parameter.header) {
            errors.push(400);
        }
        if !self.path_names().is_empty() {
            errors.push(404);
        }
        errors.sort_unstable();
        errors.dedup();
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_without_its_patterns() {
        let endpoint = get("/v1/models/{id:.*}/{part}", || async { "" }, "");
        assert_eq!(endpoint.template(), "/v1/models/{id}/{part}");
        assert_eq!(endpoint.path_names(), ["id", "part"]);
    }
}
