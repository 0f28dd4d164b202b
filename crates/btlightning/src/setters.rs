//! What the builders of both configurations repeat.

/// Defines a builder's method for each field of its `config`, named like the field.
macro_rules! setters {
    ($config:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        $(
            #[doc = concat!(
                "Sets [`", stringify!($field), "`](", stringify!($config), "::", stringify!($field), ")."
            )]
            pub fn $field(mut self, val: $ty) -> Self {
                self.config.$field = val;
                self
            }
        )*
    };
}

pub(crate) use setters;
