package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// machine says what was measured on.
func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d processors, Linux %s, %s %s/%s", model, runtime.NumCPU(), strings.TrimSpace(string(kernel)),
		runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// show prints what came of a workload: of each contender the median of its rounds,
// with the least and the most.
func show(out io.Writer, w workload, results map[string][]figures) {
	if w.report == nil {
		w.report = showCPU
	}
	fmt.Fprintf(out, "\n%s\n", w.name)
	w.report(out, w, results)
}

// each calls do for the contenders that took part, in their order.
func each(results map[string][]figures, do func(name string, rounds []figures)) {
	for _, c := range contenders {
		if rounds := results[c.name]; len(rounds) > 0 {
			do(c.name, rounds)
		}
	}
}

// A spread is the median of some values, the least and the most.
type spread struct{ median, least, most float64 }

func spreadOf(rounds []figures, value func(figures) float64) spread {
	var values []float64
	for _, f := range rounds {
		values = append(values, value(f))
	}
	slices.Sort(values)
	return spread{values[len(values)/2], values[0], values[len(values)-1]}
}

func cpuPerUnit(f figures) float64  { return f.cpu.Seconds() / f.units }
func wallPerUnit(f figures) float64 { return f.wall.Seconds() / f.units }

// against is how much of what another needs these rounds need: the median of the
// ratios of each round, in which both took their turns; "" without another.
func against(results map[string][]figures, name string, rounds []figures, value func(figures) float64) string {
	others := results[name]
	if len(others) != len(rounds) {
		return ""
	}
	var ratios []float64
	for i, f := range rounds {
		ratios = append(ratios, value(f)/value(others[i]))
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f of %s", ratios[len(ratios)/2], name)
}

func showCPU(out io.Writer, w workload, results map[string][]figures) {
	each(results, func(name string, rounds []figures) {
		wall := spreadOf(rounds, wallPerUnit)
		if name == "direct" {
			fmt.Fprintf(out, "  %-8s %34s  wall %s\n", name, "", seconds(wall.median))
			return
		}
		cpu := spreadOf(rounds, cpuPerUnit)
		fmt.Fprintf(out, "  %-8s %9s a %s (%s to %s)  wall %s  %s  %s\n", name, seconds(cpu.median), w.unit, seconds(cpu.least), seconds(cpu.most),
			seconds(wall.median), against(results, "floor", rounds, cpuPerUnit), against(results, "stunnel", rounds, cpuPerUnit))
	})
}

func showMemory(out io.Writer, w workload, results map[string][]figures) {
	resident := func(f figures) float64 { return f.resident }
	each(results, func(name string, rounds []figures) {
		m, cpu := spreadOf(rounds, resident), spreadOf(rounds, cpuPerUnit)
		fmt.Fprintf(out, "  %-8s %.1f KiB a %s (%.1f to %.1f), %.0f of them  cpu %s  %s  %s\n", name, m.median/1024, w.unit, m.least/1024, m.most/1024,
			rounds[0].units, seconds(cpu.median), against(results, "floor", rounds, resident), against(results, "stunnel", rounds, resident))
	})
}

// showGrowth prints what a session needs among very many, and among fifty.
func showGrowth(out io.Writer, w workload, results map[string][]figures) {
	each(results, func(name string, rounds []figures) {
		few := func(f figures) float64 { return f.few.Seconds() }
		ratio := func(f figures) float64 { return cpuPerUnit(f) / few(f) }
		fmt.Fprintf(out, "  %-8s %s a session among %.0f, %s among fifty  %.2f\n", name, seconds(spreadOf(rounds, cpuPerUnit).median),
			rounds[0].units, seconds(spreadOf(rounds, few).median), spreadOf(rounds, ratio).median)
	})
}

// stepNames are those of a session, and all of it.
var stepNames = []string{"banner", "EHLO", "STARTTLS", "envelope", "content", "QUIT", "session"}

// showLatency prints the median of each step, and what it is above no proxy.
func showLatency(out io.Writer, w workload, results map[string][]figures) {
	fmt.Fprintf(out, "  %-8s", "")
	for _, name := range stepNames {
		fmt.Fprintf(out, " %18s", name)
	}
	fmt.Fprintln(out)
	p50 := func(step int) func(figures) float64 {
		return func(f figures) float64 {
			sorted := slices.Sorted(slices.Values(f.phases[step]))
			if len(sorted) == 0 {
				return 0
			}
			return sorted[len(sorted)/2].Seconds()
		}
	}
	each(results, func(name string, rounds []figures) {
		fmt.Fprintf(out, "  %-8s", name)
		for step := range stepNames {
			median := spreadOf(rounds, p50(step)).median
			added := ""
			if bare := results["direct"]; len(bare) > 0 && name != "direct" {
				added = fmt.Sprintf(" (+%s)", seconds(median-spreadOf(bare, p50(step)).median))
			}
			fmt.Fprintf(out, " %18s", seconds(median)+added)
		}
		fmt.Fprintln(out)
	})
}

// seconds writes a time with three digits and the unit that suits it.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch abs := d.Abs(); {
	case abs >= time.Second:
		return fmt.Sprintf("%.2f s", s)
	case abs >= time.Millisecond:
		return fmt.Sprintf("%.2f ms", s*1e3)
	}
	return fmt.Sprintf("%.1f µs", s*1e6)
}
