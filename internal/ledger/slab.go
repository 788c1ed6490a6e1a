package ledger

// chunk is how many records are allocated at a time, 80 KB of them: one large array would have to be copied to grow, and need its
// size twice while it is.
const chunk = 1024

// slab holds records by number, from 1; 0 stands for none. Those that are not in use have no moments.
type slab struct {
	chunks []*[chunk]record
	used   uint32 // the highest number given out
	free   uint32 // the first record given back; the next is its next
}

func (s *slab) at(id uint32) *record { return &s.chunks[id/chunk][id%chunk] }

// alloc returns the number of an empty record.
func (s *slab) alloc() uint32 {
	if id := s.free; id != 0 {
		s.free = s.at(id).next
		s.at(id).next = 0
		return id
	}
	s.used++
	if int(s.used/chunk) == len(s.chunks) {
		s.chunks = append(s.chunks, new([chunk]record))
	}
	return s.used
}

func (s *slab) release(id uint32) {
	*s.at(id) = record{next: s.free}
	s.free = id
}

// list is a list of records, linked by their prev and next.
type list struct{ first, last uint32 }

func (l *list) pushBack(s *slab, id uint32) {
	r := s.at(id)
	r.prev, r.next = l.last, 0
	if l.last != 0 {
		s.at(l.last).next = id
	} else {
		l.first = id
	}
	l.last = id
}

func (l *list) remove(s *slab, id uint32) {
	r := s.at(id)
	if r.prev != 0 {
		s.at(r.prev).next = r.next
	} else {
		l.first = r.next
	}
	if r.next != 0 {
		s.at(r.next).prev = r.prev
	} else {
		l.last = r.prev
	}
}
