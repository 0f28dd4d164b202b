//! x
use std::{collections::HashMap, sync::Arc, time::{Duration, Instant}};
use rmpv::Value;
macro_rules! rival { ($m:ident, $krate:ident) => { mod $m {
    use super::*; use $krate::*;
    pub struct Echo;
    impl SynapseHandler for Echo { fn handle(&self,_:&str,d:HashMap<String,Value>)->Result<HashMap<String,Value>>{Ok(d)} }
    #[async_trait::async_trait] impl AsyncSynapseHandler for Echo { async fn handle(&self,_:&str,d:HashMap<String,Value>)->Result<HashMap<String,Value>>{Ok(d)} }
    pub struct R { pub client: Arc<LightningClient>, pub axon: QuicAxonInfo, _s: Arc<LightningServer> }
    pub async fn setup() -> R {
        let mk="5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH"; let vk="5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq";
        let mut cfg = LightningServerConfig::default(); cfg.max_concurrent_bidi_streams = 1024; cfg.max_handshake_attempts_per_minute=100000;
        let mut s = LightningServer::with_config(mk.into(),"127.0.0.1".into(),0,cfg).unwrap();
        s.set_miner_keypair([1;32]); 
        s.register_synapse_handler("sync".into(), Arc::new(Echo)).await.unwrap();
        s.register_async_synapse_handler("async".into(), Arc::new(Echo)).await.unwrap();
        s.start().await.unwrap(); let a=s.local_addr().unwrap(); let s=Arc::new(s); let s2=s.clone(); tokio::spawn(async move{ s2.serve_forever().await });
        let axon=QuicAxonInfo::new(mk.into(),"127.0.0.1".into(),a.port(),4);
        let mut c=LightningClient::new(vk.into()); c.set_signer(Box::new(Sr25519Signer::from_seed([2;32]))); c.initialize_connections(vec![axon.clone()]).await.unwrap();
        R{client:Arc::new(c),axon,_s:s}
    }
    pub async fn run(r:&R, ty:&'static str, size:usize, conc:usize, dur:Duration) -> (f64, f64) {
        let stop=Instant::now()+dur; let mut hs=vec![];
        let t0=Instant::now();
        for _ in 0..conc { let c=r.client.clone(); let ax=r.axon.clone(); hs.push(tokio::spawn(async move {
            let mut lat=vec![]; let payload=vec![0x42u8;size];
            while Instant::now()<stop { let t=Instant::now();
                let q=QuicRequest::new(ty.into(), HashMap::from([("payload".to_string(), Value::Binary(payload.clone()))]));
                let resp=c.query_axon(ax.clone(), q).await.unwrap(); assert!(resp.success, "{:?}", resp.error); lat.push(t.elapsed()); }
            lat })); }
        let mut all=vec![]; for h in hs { all.extend(h.await.unwrap()); }
        let el=t0.elapsed().as_secs_f64(); let n=all.len() as f64; all.sort(); (n/el, all[all.len()/2].as_secs_f64()*1e6)
    }
}}}
rival!(ours, btlightning);
rival!(theirs, published);
#[tokio::main]
async fn main(){
    let args: Vec<String>=std::env::args().collect();
    let ms: u64 = args.get(1).map(|s|s.parse().unwrap()).unwrap_or(500);
    let only = args.get(2).cloned().unwrap_or_default();
    let d=Duration::from_millis(ms);
    let o=ours::setup().await; let t=theirs::setup().await;
    ours::run(&o,"async",1024,32,d).await; theirs::run(&t,"async",1024,32,d).await; ours::run(&o,"async",1<<20,4,d).await;
    for (ty,conc) in [("async",32),("sync",32),("async",1),("async",256)] {
      if !only.is_empty() && only != format!("{ty}{conc}") { continue }
      for size in [256,1024,10240,102400,1<<20] {
        let (mut a,mut b,mut la,mut lb)=(vec![],vec![],vec![],vec![]);
        for _ in 0..3 { let x=ours::run(&o,ty,size,conc,d).await; a.push(x.0); la.push(x.1); if std::env::var("OURS").is_ok() { b.push(1.0); lb.push(1.0); continue } let y=theirs::run(&t,ty,size,conc,d).await; b.push(y.0); lb.push(y.1); }
        for v in [&mut a,&mut b,&mut la,&mut lb]{ v.sort_by(f64::total_cmp); }
        println!("{ty:5} {conc:3} {size:8}  ours {:9.0}/s  theirs {:9.0}/s  ratio {:.2}x   p50 {:.1} vs {:.1} us  {:.2}x", a[1],b[1],a[1]/b[1],la[1],lb[1],la[1]/lb[1]);
      }
    }
}
