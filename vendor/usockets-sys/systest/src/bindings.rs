//! The Rust side: declarations, and the C that says the same.

use std::fmt::Write;

use syn::punctuated::Punctuated;
use syn::{
    Attribute, BinOp, Expr, Fields, ForeignItem, GenericArgument, Item, ItemConst, ItemStruct, Lit,
    Meta, PathArguments, ReturnType, Signature, Token, Type, TypeBareFn, UnOp,
};

/// Structs of the C library that may occur.
const SYSTEM_STRUCTS: [&str; 3] = ["iovec", "sockaddr", "sockaddr_storage"];

/// The items of a file with declarations that are not switched off by a cfg.
pub(crate) struct Bindings {
    items: Vec<Item>,
}

impl Bindings {
    pub(crate) fn parse(declarations: &str) -> Result<Self, String> {
        let file = syn::parse_file(declarations).map_err(|e| format!("not Rust: {e}"))?;
        let mut items = Vec::new();
        for mut item in file.items {
            let active = match &mut item {
                Item::Const(item) => is_active(&item.attrs),
                Item::Struct(item) => is_active(&item.attrs),
                Item::Type(item) => is_active(&item.attrs),
                Item::ForeignMod(block) => {
                    if block.abi.name.as_ref().is_none_or(|name| name.value() != "C") {
                        return Err("functions must be declared in `extern \"C\"`\n".to_owned());
                    }
                    true
                }
                Item::Use(_) => false,
                _ => return Err(format!("only declarations are understood, not {item:?}\n")),
            };
            if active {
                items.push(item);
            }
        }
        Ok(Self { items })
    }

    /// The names of all constants, types and functions, in order.
    pub(crate) fn items(&self) -> Vec<String> {
        let mut names = Vec::new();
        for item in &self.items {
            match item {
                Item::Const(item) => names.push(item.ident.to_string()),
                Item::Struct(item) => names.push(item.ident.to_string()),
                Item::Type(item) => names.push(item.ident.to_string()),
                Item::ForeignMod(_) => {
                    names.extend(functions(item).map(|function| function.ident.to_string()));
                }
                _ => unreachable!("bug in systest: `parse` keeps no other items"),
            }
        }
        names
    }

    /// The names of the fields of a struct, if it is declared and not opaque.
    pub(crate) fn fields_of(&self, name: &str) -> Option<Vec<String>> {
        let item = self.structs().find(|item| item.ident == name)?;
        let names = item.fields.iter().filter_map(|field| field.ident.as_ref());
        (!is_opaque(item)).then(|| names.map(ToString::to_string).collect())
    }

    /// C code that compiles, after the headers, if the declarations agree with them.
    pub(crate) fn to_c(&self) -> Result<String, String> {
        let mut c = CWriter { bindings: self, code: String::new(), typedefs: 0 };
        for item in &self.items {
            match item {
                Item::Const(item) => c.constant(item)?,
                Item::Struct(item) => c.structure(item)?,
                Item::Type(item) => {
                    let name = item.ident.to_string();
                    let ty = c.type_name(&item.ty)?;
                    c.assert_same_type(&name, &name, &ty, "type");
                }
                Item::ForeignMod(_) => {
                    for function in functions(item) {
                        c.function(function)?;
                    }
                }
                _ => unreachable!("bug in systest: `parse` keeps no other items"),
            }
        }
        Ok(c.code)
    }

    fn structs(&self) -> impl Iterator<Item = &ItemStruct> {
        self.items.iter().filter_map(|item| match item {
            Item::Struct(item) => Some(item),
            _ => None,
        })
    }
}

/// Writes assertions, and the types they need.
struct CWriter<'a> {
    bindings: &'a Bindings,
    code: String,
    typedefs: u32,
}

impl CWriter<'_> {
    fn constant(&mut self, item: &ItemConst) -> Result<(), String> {
        let name = item.ident.to_string();
        let value =
            value_of(&item.expr).ok_or_else(|| format!("{name}: value not understood\n"))?;
        let ty = self.type_name(&item.ty)?;
        self.assert_same_type(&name, &format!("__typeof__({name})"), &ty, "type");
        self.line(&format!("_Static_assert(({name}) == {value}LL, \"{name}: value\");"));
        Ok(())
    }

    /// Writes a second struct, of the Rust fields, and compares the two.
    fn structure(&mut self, item: &ItemStruct) -> Result<(), String> {
        let name = item.ident.to_string();
        if !has_c_layout(item) {
            return Err(format!("{name}: is not #[repr(C)]\n"));
        }
        if is_opaque(item) {
            return Ok(());
        }
        let mut fields = Vec::new();
        for field in &item.fields {
            let Some(ident) = &field.ident else { return Err(format!("{name}: is a tuple\n")) };
            fields.push((ident.to_string(), self.type_name(&field.ty)?));
        }
        let body: String = fields.iter().map(|(field, ty)| format!(" {ty} {field};")).collect();
        self.line(&format!("struct rust_{name} {{{body} }};"));
        for (field, ty) in fields {
            let what = format!("{name}.{field}");
            let c_type = format!("__typeof__(((struct {name} *)0)->{field})");
            self.assert_same_type(&what, &c_type, &ty, "type");
            self.line(&format!(
                "_Static_assert(offsetof(struct {name}, {field}) == \
                 offsetof(struct rust_{name}, {field}), \"{what}: offset\");"
            ));
        }
        self.line(&format!(
            "_Static_assert(sizeof(struct {name}) == sizeof(struct rust_{name}) && \
             _Alignof(struct {name}) == _Alignof(struct rust_{name}), \"{name}: size\");"
        ));
        Ok(())
    }

    fn function(&mut self, function: &Signature) -> Result<(), String> {
        let name = function.ident.to_string();
        let mut parameters = Vec::new();
        for parameter in &function.inputs {
            let syn::FnArg::Typed(parameter) = parameter else {
                return Err(format!("{name}: has a self parameter\n"));
            };
            parameters.push(&*parameter.ty);
        }
        let ty = self.function_pointer(&parameters, &function.output)?;
        self.assert_same_type(&name, &format!("__typeof__(&{name})"), &ty, "signature");
        Ok(())
    }

    /// Names a pointer to functions of this signature.
    fn function_pointer(
        &mut self,
        parameters: &[&Type],
        output: &ReturnType,
    ) -> Result<String, String> {
        let result = match output {
            ReturnType::Default => "void".to_owned(),
            ReturnType::Type(_, ty) => self.type_name(ty)?,
        };
        let mut list = Vec::new();
        for parameter in parameters {
            list.push(self.type_name(parameter)?);
        }
        let list = if list.is_empty() { "void".to_owned() } else { list.join(", ") };
        let name = format!("rust_function_{}", self.typedefs);
        self.typedefs += 1;
        self.line(&format!("typedef {result} (*{name})({list});"));
        Ok(name)
    }

    /// The C name of a Rust type.
    fn type_name(&mut self, ty: &Type) -> Result<String, String> {
        match ty {
            Type::Ptr(pointer) => {
                let constness = if pointer.const_token.is_some() { "const " } else { "" };
                Ok(format!("{} {constness}*", self.type_name(&pointer.elem)?))
            }
            Type::Path(path) => {
                let Some(last) = path.path.segments.last() else {
                    return Err("a type without a name\n".to_owned());
                };
                let name = last.ident.to_string();
                match callback(&name, &last.arguments) {
                    Some(callback) => self.callback(callback),
                    None => self.named_type(&name),
                }
            }
            Type::BareFn(_) => {
                Err("a function pointer of C can be NULL: declare it in an Option\n".to_owned())
            }
            _ => Err(format!("type not understood: {ty:?}\n")),
        }
    }

    fn callback(&mut self, callback: &TypeBareFn) -> Result<String, String> {
        let is_c = |abi: &syn::Abi| abi.name.as_ref().is_some_and(|name| name.value() == "C");
        if callback.unsafety.is_none() || !callback.abi.as_ref().is_some_and(is_c) {
            return Err("function pointers must be `unsafe extern \"C\"`\n".to_owned());
        }
        let parameters: Vec<&Type> = callback.inputs.iter().map(|input| &input.ty).collect();
        self.function_pointer(&parameters, &callback.output)
    }

    fn named_type(&self, name: &str) -> Result<String, String> {
        let c = match name {
            "c_char" => "char",
            "c_int" => "int",
            "c_uchar" => "unsigned char",
            "c_uint" => "unsigned int",
            "c_ushort" => "unsigned short",
            "c_long" => "long",
            "c_ulong" => "unsigned long",
            "c_longlong" => "long long",
            "c_ulonglong" => "unsigned long long",
            "c_double" => "double",
            "c_void" => "void",
            "u8" => "uint8_t",
            "u16" => "uint16_t",
            "u32" => "uint32_t",
            "u64" => "uint64_t",
            "i64" => "int64_t",
            "usize" => "size_t",
            "socklen_t" | "LIBUS_SOCKET_DESCRIPTOR" => name,
            _ if SYSTEM_STRUCTS.contains(&name)
                || self.bindings.structs().any(|item| item.ident == name) =>
            {
                return Ok(format!("struct {name}"));
            }
            _ => return Err(format!("type not understood: {name}\n")),
        };
        Ok(c.to_owned())
    }

    fn assert_same_type(&mut self, what: &str, c: &str, rust: &str, aspect: &str) {
        self.line(&format!(
            "_Static_assert(__builtin_types_compatible_p({c}, {rust}), \"{what}: {aspect}\");"
        ));
    }

    fn line(&mut self, line: &str) {
        writeln!(self.code, "{line}").expect("writing to a string succeeds");
    }
}

/// The functions in an `extern` block that are not switched off.
fn functions(item: &Item) -> impl Iterator<Item = &Signature> {
    let items = match item {
        Item::ForeignMod(block) => block.items.as_slice(),
        _ => &[],
    };
    items.iter().filter_map(|item| match item {
        ForeignItem::Fn(function) if is_active(&function.attrs) => Some(&function.sig),
        _ => None,
    })
}

/// The function pointer in `Option<unsafe extern "C" fn(..)>`.
fn callback<'a>(name: &str, arguments: &'a PathArguments) -> Option<&'a TypeBareFn> {
    match arguments {
        PathArguments::AngleBracketed(list) if name == "Option" => match list.args.first()? {
            GenericArgument::Type(Type::BareFn(callback)) => Some(callback),
            _ => None,
        },
        _ => None,
    }
}

fn has_c_layout(item: &ItemStruct) -> bool {
    item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("repr")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|repr| repr == "C")
    })
}

/// Whether the struct only stands for an incomplete one.
fn is_opaque(item: &ItemStruct) -> bool {
    let Fields::Named(fields) = &item.fields else { return false };
    fields.named.first().is_some_and(|field| field.ident.as_ref().is_some_and(|n| n == "_private"))
}

/// The value of an integer expression.
fn value_of(expression: &Expr) -> Option<i64> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(value) => value.base10_parse().ok(),
            _ => None,
        },
        Expr::Paren(inner) => value_of(&inner.expr),
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => Some(-value_of(&unary.expr)?),
        Expr::Binary(binary) => {
            let (left, right) = (value_of(&binary.left)?, value_of(&binary.right)?);
            match binary.op {
                BinOp::Mul(_) => left.checked_mul(right),
                BinOp::Shl(_) => left.checked_shl(u32::try_from(right).ok()?),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether no cfg switches the item off, on this target and with fault injection.
fn is_active(attributes: &[Attribute]) -> bool {
    let mut cfgs = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    cfgs.all(|cfg| cfg.parse_args::<Meta>().is_ok_and(|condition| holds(&condition)))
}

fn holds(condition: &Meta) -> bool {
    match condition {
        Meta::Path(name) => name.is_ident("usockets_fault_injection"),
        Meta::List(list) => {
            let parse = Punctuated::<Meta, Token![,]>::parse_terminated;
            let Ok(parts) = list.parse_args_with(parse) else { return false };
            if list.path.is_ident("not") {
                !parts.iter().any(holds)
            } else if list.path.is_ident("any") {
                parts.iter().any(holds)
            } else {
                list.path.is_ident("all") && parts.iter().all(holds)
            }
        }
        Meta::NameValue(pair) => {
            let Expr::Lit(literal) = &pair.value else { return false };
            let Lit::Str(value) = &literal.lit else { return false };
            if pair.path.is_ident("target_os") {
                value.value() == std::env::consts::OS
            } else {
                let apple = cfg!(target_vendor = "apple");
                pair.path.is_ident("target_vendor") && (value.value() == "apple") == apple
            }
        }
    }
}
