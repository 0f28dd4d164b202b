//! Lets the extension module leave Python's symbols to the interpreter that loads it, and tells the
//! code which kind of interpreter that is.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    pyo3_build_config::add_extension_module_link_args();
}
