"""draft."""
import math, time
from pathlib import Path
from typing import Any
import torch
from torch import Tensor
import gp_response as gr
import _attribution_peers as peers
from _attribution_nets import Case, Pair, Parameters, asked, draw, gradients, retrain, start, train, slopes
from _attribution_scores import Table, additive, assess, lds, Guess

PAIRS = {
    "concrete": Pair("concrete", (16, 16), "tanh", 20.0, noise=0.1),
    "kin8nm": Pair("hl_kin8nm", (16, 16), "gelu", 5.0, noise=0.1),
    "magic": Pair("magic", (16, 16), "tanh", 5.0, classes=2),
    "digits": Pair("digits", (16,), "tanh", 1.0, classes=10),
}
DAMPINGS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
GRID = {"pair": list(PAIRS), "seed": [0, 1, 2]}
SMOKE = {"pair": "concrete", "rows": 60, "points": 5, "networks": 2, "subsets": 8, "held": 3, "singles": 6, "steps": 50}


def dense(case, trained):
    """temporary: GGN dense"""
    from torch.func import functional_call, jacrev, vmap, hessian
    out=[]
    K=len(next(iter(trained.values())))
    net=case.network(0)
    for k in range(K):
        own={n:v[k] for n,v in trained.items()}
        J=vmap(jacrev(lambda q,a: functional_call(net,q,(a[None],))[0]),(None,0))(own,case.x)
        J=torch.cat([v.flatten(2) for v in J.values()],-1)
        o=functional_call(net,own,(case.x,)).detach()
        H=vmap(hessian(lambda o,b: case.loss(o,b)))(o,case.y)
        out.append((J,torch.einsum('ncd,ndp->ncp',H,J),gradients(case,trained,k)))
    return out

def ours(case, trained, removed, singles, dampings):
    t=time.time()
    D=dense(case,trained); lam=case.pair.precision; P=D[0][0].shape[-1]; I=torch.eye(P,dtype=torch.float64)
    first={};fin={}
    for d in dampings:
        R=0; F=torch.zeros(len(case.points),removed.shape[1],dtype=torch.float64)
        for J,HJ,g in D:
            G=J.reshape(-1,P).T@HJ.reshape(-1,P)
            R=R+g.points@torch.linalg.solve(G+d*lam*I,g.rows.T)/len(D)
            for b in range(removed.shape[1]):
                keep=removed[:,b]==0
                Gs=J[keep].reshape(-1,P).T@HJ[keep].reshape(-1,P)+d*lam*I
                F[:,b]+=g.points@torch.cholesky_solve(g.rows[~keep].sum(0)[:,None],torch.linalg.cholesky(Gs))[:,0]/len(D)
        first[f"{d:g}"]=R; fin[f"{d:g}"]=Guess(F,R[:,singles])
    print("ours",time.time()-t)
    return {"ours first":additive(first,removed,singles),"ours finite":fin}


def main(pair: str = "concrete", rows: int = 500, points: int = 50, networks: int = 4, subsets: int = 120, held: int = 20, singles: int = 40, steps: int = 1500, polish: int=1000, lw: int=200, precision: float = 0.0, loo: bool = True, dampings: list[float]=DAMPINGS, seed: int = 0) -> dict[str, Any]:
    import dataclasses
    pr=PAIRS[pair]
    if precision: pr=dataclasses.replace(pr,precision=precision)
    case=draw(pr,rows,points,seed)
    g=torch.Generator().manual_seed(seed)
    T=time.time()
    initial, others=(start(case,[1000*seed+100*j+k for k in range(networks)]) for j in (1,2))
    everything=torch.arange(rows).expand(networks,-1)
    full=train(case,initial,everything,steps,polish)
    full2=train(case,others,everything,steps,polish)
    base=asked(case,full)
    print("full",time.time()-T, "grad", [float(gradients(case,full,k).energy.norm()) for k in range(networks)], "decay", float(sum(v[0].square().sum() for v in full.values()).sqrt()*pr.precision))
    a=base.mean(0)
    print("test", float((a-case.targets).square().mean().sqrt()) if pr.noise else float((a<0).double().mean()))
    kept=[torch.randperm(rows,generator=g)[:rows//2].sort().values for _ in range(subsets)]
    removed=torch.ones(rows,subsets,dtype=torch.float64)
    for b,k in enumerate(kept): removed[k,b]=0.0
    T=time.time()
    own=(retrain(case,initial,kept,steps,0)-base[:,:,None])
    print("retrain",time.time()-T)
    fresh=(retrain(case,others,kept,steps,0)-asked(case,full2)[:,:,None])
    alone=torch.randperm(rows,generator=g)[:singles]
    if loo:
        T=time.time()
        loos=[torch.cat([torch.arange(int(r)),torch.arange(int(r)+1,rows)]) for r in alone]
        one=(retrain(case,full,loos,0,lw)-base[:,:,None]).mean(0)
        print("loo",time.time()-T, "size", float(one.square().mean().sqrt()))
    else: one=torch.randn(points,singles,dtype=torch.float64)
    print("sizes half", float(own.mean(0).square().mean().sqrt()))
    print("ceiling", lds(own.mean(0),fresh.mean(0)), "nets", lds(own[0],own[1]))
    tables=ours(case,full,removed,alone,dampings)
    gs=[gradients(case,full,k) for k in range(networks)]
    sim={"dot":{"none":sum(g.points@g.rows.T for g in gs)/networks},"cosine":{"none":sum(torch.nn.functional.normalize(g.points)@torch.nn.functional.normalize(g.rows).T for g in gs)/networks}}
    tables|={k:additive(v,removed,alone) for k,v in sim.items()}
    if not peers.MISSING:
        for nm,f in {"ekfac":lambda:peers.ekfac(case,full,dampings,seed),"if":lambda:peers.influence(case,full,dampings),"trak":lambda:peers.trak(case,full,[0.0001,0.001,0.01,0.1,1.0],[512,2048],seed)}.items():
            T=time.time(); tables[nm]=additive(f(),removed,alone); print(nm,time.time()-T)
    T=time.time()
    res=assess(tables,own.mean(0),one,fresh.mean(0),held,singles//4,seed)
    for k,v in res.items(): print(k,{a:(b if isinstance(b,str) else [round(z,3) for z in b] if isinstance(b,list) else round(b,3)) for a,b in v.items() if a!="lds_minus"})
    print("assess",time.time()-T)
    for k,t in tables.items(): print(k,{d:round(lds(gg.halves,own.mean(0)),3) for d,gg in t.items()})
    return res
if __name__=="__main__":
    import sys; torch.set_num_threads(1)
    kw={k:eval(v) for k,v in (a.split("=") for a in sys.argv[1:])}
    main(**kw)
