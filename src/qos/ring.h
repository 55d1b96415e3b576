// Lists whose links lie in their members: joining and leaving allocate nothing and cost the same however many there
// are.
#pragma once

namespace marchproxy::qos {

template <class Member>
class Ring;

// A member's place in a list; it is in one at most.
template <class Member>
class Link {
  public:
    bool linked() const { return after_ != nullptr; }
    void unlink() {
        before_->after_ = after_;
        after_->before_ = before_;
        before_ = after_ = nullptr;
    }

  private:
    friend class Ring<Member>;
    Link* before_ = nullptr;
    Link* after_ = nullptr;  // null: in no list
};

// Not copied, not moved: its members point at it. They leave before it goes.
template <class Member>
class Ring {
  public:
    Ring() { head_.before_ = head_.after_ = &head_; }
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    bool empty() const { return head_.after_ == &head_; }
    Member& front() { return static_cast<Member&>(*head_.after_); }
    const Link<Member>& back() const { return *head_.before_; }
    // Behind the one given; null: that was the last.
    Member* after(Link<Member>& member) {
        return member.after_ == &head_ ? nullptr : static_cast<Member*>(member.after_);
    }
    void push_back(Link<Member>& member) { insert(member, *head_.before_, head_); }
    void push_front(Link<Member>& member) { insert(member, head_, *head_.after_); }
    Member& pop_front() {
        Link<Member>& first = *head_.after_;
        head_.after_ = first.after_;
        head_.after_->before_ = &head_;
        first.before_ = first.after_ = nullptr;
        return static_cast<Member&>(first);
    }
    void front_to_back() { push_back(pop_front()); }

  private:
    static void insert(Link<Member>& link, Link<Member>& before, Link<Member>& after) {
        link.before_ = &before;
        link.after_ = &after;
        before.after_ = after.before_ = &link;
    }

    Link<Member> head_;
};

}  // namespace marchproxy::qos
