//! Writes what is generated to where it is committed: `cargo run -p crds`.

use std::error::Error;
use std::fs;
use std::path::Path;

use crds::definition;
use tcp_close::rule::markdown;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chart = here.join("../charts/tcp-close-tuning/files/crds");
    fs::create_dir_all(&chart)?;
    for definition in [definition::tuning()?, definition::node()?] {
        let name = format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural);
        let text = definition::yaml(&definition)?;
        fs::write(here.join(&name), &text)?;
        fs::write(chart.join(&name), &text)?;
        println!("{name}");
    }
    let docs = here.join("../docs");
    fs::create_dir_all(&docs)?;
    fs::write(docs.join("rules.md"), markdown::page())?;
    println!("docs/rules.md");
    Ok(())
}
