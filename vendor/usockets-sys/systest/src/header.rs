//! The C side: the names that a header introduces.
//!
//! This knows just enough C for headers of our own style: no typedefs, one declarator per
//! declaration, macros that are constants.

/// What the headers that were read introduce, in order.
#[derive(Debug, Default)]
pub(crate) struct Header {
    /// Constants, types and functions.
    pub(crate) items: Vec<String>,
    /// The structs that have fields, with the names of these.
    pub(crate) structs: Vec<(String, Vec<String>)>,
}

impl Header {
    /// Adds the contents of a header.
    pub(crate) fn read(&mut self, text: &str) {
        let mut code = String::new();
        let mut in_cplusplus = false;
        for line in without_comments(text).replace("\\\n", " ").lines() {
            let Some(directive) = line.trim().strip_prefix('#') else {
                if !in_cplusplus {
                    code += line;
                    code.push('\n');
                }
                continue;
            };
            // Declarations before the directive come before what it defines.
            self.declarations(&code);
            code.clear();
            let mut words = directive.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("ifdef"), Some("__cplusplus"), _) => in_cplusplus = true,
                (Some("endif"), ..) => in_cplusplus = false,
                (Some("define"), Some(name), Some(_value)) => self.constant_macro(name),
                _ => {}
            }
        }
        self.declarations(&code);
    }

    /// Adds declarations, of which there are only complete ones in `code`.
    fn declarations(&mut self, code: &str) {
        for declaration in split(code) {
            let declaration = declaration.trim();
            if declaration.is_empty() {
                continue;
            }
            if let Some((head, body)) = declaration.split_once('{') {
                let body = body.trim_end().trim_end_matches('}');
                self.type_with_body(head.trim(), body);
            } else if let Some((head, _parameters)) = declaration.split_once('(') {
                self.item(last_word(head));
            } else {
                self.item(last_word(declaration));
            }
        }
    }

    fn type_with_body(&mut self, head: &str, body: &str) {
        if head.starts_with("enum") {
            for constant in body.split(',').filter(|constant| !constant.trim().is_empty()) {
                self.item(last_word(constant.split('=').next().unwrap_or_default()));
            }
        } else {
            let name = last_word(head);
            self.item(name);
            let fields = split(body).into_iter().filter(|field| !field.trim().is_empty());
            let fields = fields.map(|field| field_name(field).to_owned()).collect();
            self.structs.push((name.to_owned(), fields));
        }
    }

    /// Adds a macro. Of those in the branches of an #if, which have the same name, only one.
    fn constant_macro(&mut self, name: &str) {
        if self.items.last().is_none_or(|last| last != name) {
            self.item(name);
        }
    }

    fn item(&mut self, name: &str) {
        self.items.push(name.to_owned());
    }
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut code = String::new();
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").map_or("", |(_comment, after)| after);
    }
    code + rest
}

/// Splits at the semicolons that are in no braces.
fn split(code: &str) -> Vec<&str> {
    let mut depth = 0;
    let at_semicolon = |c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ';' && depth == 0
    };
    code.split(at_semicolon).collect()
}

/// The name in `const char *name` or `void (*name)(int)`.
fn field_name(field: &str) -> &str {
    match field.split_once("(*") {
        Some((_result, rest)) => rest.split(')').next().unwrap_or_default().trim(),
        None => last_word(field),
    }
}

fn last_word(text: &str) -> &str {
    let is_break = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.trim_end().rsplit(is_break).next().unwrap_or_default()
}
