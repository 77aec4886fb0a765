//! The event server inside an actix-web application, below `/events`, with tokens.
//!
//! ```sh
//! (umask 077; openssl rand -base64 32 > secret)
//! cargo run --example embedding
//! ```
//!
//! The application publishes in its own process, by the hub, without a token. Clients need one: `switchback token --jwt-secret-file
//! secret --subscribe 'orders.>'`.

use std::error::Error;
use std::sync::Arc;

use actix_web::{App, HttpResponse, HttpServer, web};
use switchback::auth::Rules;
use switchback::http::AccessOptions;
use switchback::keyring::{KeyRing, KeySource, SecretSource};
use switchback::secret_file::Readable;
use switchback::{DiskStore, HttpOptions, Hub, HubOptions, NewEvent, StoreOptions, routes};

const ADDRESS: (&str, u16) = ("127.0.0.1", 3000);

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = DiskStore::open("events".as_ref(), StoreOptions::default())?;
    let hub = Hub::open(Arc::new(store), HubOptions::default()).await?;
    let secret = SecretSource::File("secret".into());
    let source = KeySource::Secrets { current: secret, previous: None, readable: Readable::Warned };
    let options = options(KeyRing::follow(source, Rules::default())?);
    // Options are made once, and cloned for each worker: they share keys and limits.
    let application = hub.clone();
    HttpServer::new(move || App::new().configure(|config| configure(config, &application, options.clone())))
        .h1_allow_half_closed(false) // A held request ends when its client goes away.
        .bind(ADDRESS)?
        .run()
        .await?;
    hub.close().await;
    Ok(())
}

/// The options of the routes: a token is required, except for the topics below `news`.
pub(crate) fn options(keys: Arc<KeyRing>) -> HttpOptions {
    let public_subscribe = ["news.>"].map(|pattern| pattern.parse().expect("a valid pattern"));
    let access =
        AccessOptions { keys: Some(keys), public_subscribe: Arc::from(public_subscribe), ..AccessOptions::default() };
    HttpOptions { access, ..HttpOptions::default() }
}

/// The application's own routes, and those of the events in a scope of their own.
pub(crate) fn configure(config: &mut web::ServiceConfig, hub: &Hub, options: HttpOptions) {
    config
        .app_data(web::Data::new(hub.clone()))
        .route("/orders/{id}", web::post().to(order))
        .service(web::scope("/events").configure(routes(hub, options)));
}

/// Publishes an order; the response has the cursor from which its event can be read.
async fn order(id: web::Path<u32>, hub: web::Data<Hub>) -> Result<HttpResponse, Box<dyn Error>> {
    let published = hub.publish(NewEvent::json(&format!("orders.{id}.status"), &"created")?).await?;
    Ok(HttpResponse::Created().json(published.cursor.to_string()))
}
