//! One spelling for each path: `/v1//models/` is `/v1/models`, without a redirect that would drop the body.

use actix_web::dev::ServiceRequest;
use actix_web::http::Uri;
use actix_web::http::uri::PathAndQuery;

/// Takes away what the path has too many of slashes.
pub fn tidy(request: &mut ServiceRequest) {
    let Some(uri) = tidied(request.uri()) else { return };
    request.match_info_mut().get_mut().update(&uri);
    request.head_mut().uri = uri;
}

/// `None` for a path that is tidy, as nearly all are.
fn tidied(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if path.len() < 2 || !(path.ends_with('/') || path.contains("//")) {
        return None;
    }
    let mut tidy = String::with_capacity(uri.path_and_query()?.as_str().len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        tidy.push('/');
        tidy.push_str(part);
    }
    if tidy.is_empty() {
        tidy.push('/');
    }
    if let Some(query) = uri.query() {
        tidy.push('?');
        tidy.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(tidy).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tidy(sent: &'static str) -> String {
        let uri = Uri::from_static(sent);
        tidied(&uri).unwrap_or(uri).to_string()
    }

    #[test]
    fn slashes_in_a_row_and_at_the_end_are_one_or_none() {
        for (sent, meant) in [
            ("/", "/"),
            ("///", "/"),
            ("/v1/models", "/v1/models"),
            ("/v1/models/", "/v1/models"),
            ("//v1///models//", "/v1/models"),
            ("/v1/%2F/models", "/v1/%2F/models"),
            ("/v1/models/?to=//here/", "/v1/models?to=//here/"),
            ("/v1/models?to=//here/", "/v1/models?to=//here/"),
            ("http://a.test:80//v1/models/", "http://a.test:80/v1/models"),
            ("http://a.test", "http://a.test/"),
            ("*", "*"),
        ] {
            assert_eq!(tidy(sent), meant, "{sent}");
        }
    }
}
